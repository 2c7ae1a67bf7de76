//! GPT-2: learned positions, LayerNorm, linear weights stored [in, out] (Conv1D), fused q/k/v.

use super::llama::{ATTENTION, FRAME, HUGGING_FACE_ONLY, KEYS, LAYER};
use super::parts::*;

fn scales(settings: &Settings, model: &mut Model) -> Result<()> {
    let scaled = settings.flag("scale_attn_weights", true)?;
    let by_block = settings.flag("scale_attn_by_inverse_layer_idx", false)?;
    for (index, attention) in model.attentions().enumerate() {
        attention.scale = if scaled { attention.scale } else { 1.0 };
        attention.scale /= if by_block { index as f32 + 1.0 } else { 1.0 };
    }
    Ok(())
}

/// GPT-2 and what shares its graph.
pub(crate) static GPT2: Arch = Arch {
    models: &[("gpt2", "GPT2LMHeadModel")],
    outline: Outline {
        frame: Frame {
            base: "transformer.",
            transposed: true,
            norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false },
            embedding: EmbeddingTables {
                tokens: "wte",
                positions: Some(LearnedPositions { name: "wpe", offset: 0 }),
                ..FRAME.embedding
            },
            final_norm: Some("ln_f"),
            tied: true,
            ..FRAME
        },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                input: Projections::Stacked("h.{b}.attn.c_attn"),
                output: "h.{b}.attn.c_proj",
                rotary: None,
                ..ATTENTION
            }),
            feed_forward: FeedForward::Dense(Dense {
                up: "h.{b}.mlp.c_fc",
                down: "h.{b}.mlp.c_proj",
                activation: Activation::GeluTanh,
            }),
            norms: Norms {
                mixer: SublayerNorms::before("h.{b}.ln_1"),
                feed_forward: SublayerNorms::before("h.{b}.ln_2"),
            },
            ..LAYER
        },
        rotation: None,
        keys: SettingKeys {
            hidden: &["n_embd", "hidden_size"],
            context: &["n_positions", "n_ctx"],
            heads: &["n_head"],
            head_dim: &[],
            feed_forward: &["n_inner"],
            activation: &["activation_function"],
            epsilon: &["layer_norm_epsilon"],
            ..KEYS
        },
    },
    adjust: scales,
    ..HUGGING_FACE_ONLY
};
