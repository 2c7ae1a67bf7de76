//! Gemma 1, 2 and the text part of 3. Their norms multiply by one plus the weight; GGUF stores the sum.

use serde_json::{Map, Value};

use super::llama::{ATTENTION, FRAME, GATED, GGUF, KEYS, LAYER, OUTLINE, ROTATION};
use super::parts::*;
use super::qwen::NORMED_ATTENTION;

/// Files of the first release say "gelu" in hidden_act and mean the tanh form.
const GEMMA1: Outline = Outline {
    frame: Frame { norm: NormKind { plus_one: true, ..FRAME.norm }, tied: true, ..FRAME },
    layer: Layer {
        mixer: Mixer::Attention(Attention { head_dim: 256, ..ATTENTION }),
        feed_forward: FeedForward::Gated(Gated { activation: Activation::GeluTanh, ..GATED }),
        ..LAYER
    },
    keys: SettingKeys { activation: &["hidden_activation"], ..KEYS },
    ..OUTLINE
};

/// Norms before and after mixer and feed-forward network.
const SANDWICHED: Norms = Norms {
    mixer: SublayerNorms { output: Some("layers.{b}.post_attention_layernorm"), ..LAYER.norms.mixer },
    feed_forward: SublayerNorms {
        input: Some("layers.{b}.pre_feedforward_layernorm"),
        output: Some("layers.{b}.post_feedforward_layernorm"),
        after: None,
    },
};

const HEADS: &[Key] = &[
    int("head_dim", "attention.key_length").or(Missing::Int(256)),
    int("head_dim", "attention.value_length").or(Missing::Int(256)),
];

const SOFTCAPS: &[Key] = &[
    float("attn_logit_softcapping", "attn_logit_softcapping").or(Missing::Float(50.0)),
    float("final_logit_softcapping", "final_logit_softcapping").or(Missing::Float(30.0)),
    int("sliding_window", "attention.sliding_window").or(Missing::Int(4096)),
];

/// Gemma 3's config.json leaves out the defaults of its class.
const GEMMA3_KEYS: &[Key] = &[
    int("max_position_embeddings", "context_length").or(Missing::Int(131_072)),
    int("hidden_size", "embedding_length"),
    int("num_hidden_layers", "block_count"),
    int("intermediate_size", "feed_forward_length"),
    int("num_attention_heads", "attention.head_count").or(Missing::Int(8)),
    int("num_key_value_heads", "attention.head_count_kv").or(Missing::Int(4)),
    int("sliding_window", "attention.sliding_window").or(Missing::Int(4096)),
];

const ACTIVATION: (&str, Fixed) = ("hidden_activation", Fixed::Text("gelu_pytorch_tanh"));

fn gemma(_: &Settings, model: &mut Model) -> Result<()> {
    model.frame.embedding.scale = Some((model.hidden as f32).sqrt());
    Ok(())
}

/// Reads the settings of Gemma 2. Every other layer slides, the first one too.
fn gemma2(settings: &Settings, model: &mut Model) -> Result<()> {
    gemma(settings, model)?;
    scale_and_cap(model, settings, settings.nullable("attn_logit_softcapping", 50.0)?)?;
    model.frame.logit_cap = settings.nullable("final_logit_softcapping", 30.0)?;
    model.slide(settings, settings.window(Some(4096))?, |layer| layer % 2 == 0)
}

/// Reads the settings of Gemma 3: five local layers, with rotations of their own, to a global one.
fn gemma3(settings: &Settings, model: &mut Model) -> Result<()> {
    gemma(settings, model)?;
    let cap = |key: &str| Ok(settings.number(&[key])?.map(|cap| cap as f32));
    scale_and_cap(model, settings, cap("attn_logit_softcapping")?)?;
    model.frame.logit_cap = cap("final_logit_softcapping")?;
    let pattern = settings.optional(&["sliding_window_pattern"])?.unwrap_or(6).max(1);
    model.slide(settings, settings.window(Some(4096))?, |layer| (layer + 1) % pattern != 0)?;
    let mut head_dim = 0;
    for attention in model.attentions() {
        attention.rotary = Some(usize::from(attention.window.is_some()));
        head_dim = attention.head_dim;
    }
    model.rotaries.push(Rotary::new(&Rope::local(settings.0), head_dim, model.context)?);
    Ok(())
}

fn scale_and_cap(model: &mut Model, settings: &Settings, cap: Option<f32>) -> Result<()> {
    settings.positive_or_absent(&["query_pre_attn_scalar"])?;
    let scale = settings.number(&["query_pre_attn_scalar"])?.map_or(256.0, |scalar| scalar as f32).powf(-0.5);
    for attention in model.attentions() {
        (attention.scale, attention.soft_cap) = (scale, cap);
    }
    Ok(())
}

/// Gemma, CodeGemma.
pub(crate) static GEMMA: Arch = Arch {
    models: &[("gemma", "GemmaForCausalLM")],
    outline: GEMMA1,
    adjust: gemma,
    gguf: GgufForm {
        name: "gemma",
        keys: &[DECODER_KEYS, RMS_KEYS, HEADS],
        fixed: &[("hidden_act", Fixed::Text("gelu_pytorch_tanh")), ACTIVATION],
        changes: Changes::Norms,
        ..GGUF
    },
};

/// Gemma 2.
pub(crate) static GEMMA2: Arch = Arch {
    models: &[("gemma2", "Gemma2ForCausalLM")],
    outline: Outline {
        layer: Layer { norms: SANDWICHED, ..GEMMA1.layer },
        keys: SettingKeys { heads_divide_width: true, ..GEMMA1.keys },
        ..GEMMA1
    },
    adjust: gemma2,
    gguf: GgufForm {
        name: "gemma2",
        keys: &[DECODER_KEYS, RMS_KEYS, HEADS, SOFTCAPS],
        fixed: &[ACTIVATION],
        changes: Changes::Norms,
        complete: attention_scale,
    },
};

/// Gemma 3, text only.
pub(crate) static GEMMA3: Arch = Arch {
    models: &[("gemma3_text", "Gemma3ForCausalLM")],
    outline: Outline {
        layer: Layer {
            mixer: Mixer::Attention(Attention { head_dim: 256, ..NORMED_ATTENTION }),
            norms: SANDWICHED,
            ..GEMMA1.layer
        },
        rotation: Some(RotationDefaults { theta: 1e6, ..ROTATION }),
        keys: SettingKeys { heads_divide_width: true, ..GEMMA1.keys },
        ..GEMMA1
    },
    adjust: gemma3,
    gguf: GgufForm {
        name: "gemma3",
        keys: &[GEMMA3_KEYS, RMS_KEYS, HEADS],
        fixed: &[
            ACTIVATION,
            ("rope_local_base_freq", Fixed::Float(10_000.0)),
            ("sliding_window_pattern", Fixed::Int(6)),
        ],
        changes: Changes::Norms,
        complete: attention_scale,
    },
};

/// Blocks of the 27B models, the ones that scale attention by the width of the model rather than of the head. GGUF does
/// not say; llama.cpp tells them apart in this way too (`llama-model.cpp`, `f_attention_scale`).
const BLOCKS_OF_27B: [u64; 2] = [46, 62];

fn attention_scale(config: &mut Map<String, Value>, _: &HasTensor) {
    let get = |key: &str| config.get(key).and_then(Value::as_u64);
    let per_head = get("hidden_size").zip(get("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
    let big = get("num_hidden_layers").is_some_and(|blocks| BLOCKS_OF_27B.contains(&blocks));
    let scalar = if big { per_head } else { get("head_dim") };
    if let Some(scalar) = scalar {
        config.insert("query_pre_attn_scalar".into(), scalar.into());
    }
}
