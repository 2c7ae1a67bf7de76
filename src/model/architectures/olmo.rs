//! OLMo 2: norms after attention and feed-forward, and over whole q and k. OLMoE: experts, and a limit of q, k and v.

use super::llama::{ATTENTION, FRAME, GGUF, HUGGING_FACE_ONLY, LAYER, OUTLINE, UNIFORM_KEYS};
use super::parts::*;
use super::qwen::EXPERTS;

const OLMO: Outline = Outline {
    frame: Frame { norm: NormKind { epsilon: 1e-5, ..FRAME.norm }, ..FRAME },
    layer: Layer {
        mixer: Mixer::Attention(Attention {
            norms: Some(HeadNorms {
                names: ["layers.{b}.self_attn.q_norm", "layers.{b}.self_attn.k_norm"],
                whole: true,
            }),
            ..ATTENTION
        }),
        ..LAYER
    },
    ..OUTLINE
};

const fn norm_of_output(output: &'static str) -> SublayerNorms {
    SublayerNorms { input: None, output: Some(output), after: None }
}

fn olmoe(settings: &Settings, model: &mut Model) -> Result<()> {
    let clip = settings.number(&["clip_qkv"])?.map(|limit| limit as f32);
    model.attentions().for_each(|attention| attention.clip = clip);
    Ok(())
}

/// OLMoE.
pub(crate) static OLMOE: Arch = Arch {
    models: &[("olmoe", "OlmoeForCausalLM")],
    outline: Outline {
        layer: Layer { feed_forward: FeedForward::Experts(EXPERTS), ..OLMO.layer },
        keys: UNIFORM_KEYS,
        ..OLMO
    },
    adjust: olmoe,
    ..HUGGING_FACE_ONLY
};

/// OLMo 2.
pub(crate) static OLMO2: Arch = Arch {
    models: &[("olmo2", "Olmo2ForCausalLM")],
    outline: Outline {
        layer: Layer {
            norms: Norms {
                mixer: norm_of_output("layers.{b}.post_attention_layernorm"),
                feed_forward: norm_of_output("layers.{b}.post_feedforward_layernorm"),
            },
            ..OLMO.layer
        },
        ..OLMO
    },
    adjust,
    gguf: GgufForm { name: "olmo2", keys: &[DECODER_KEYS, RMS_KEYS], ..GGUF },
};
