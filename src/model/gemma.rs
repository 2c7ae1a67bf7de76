//! Gemma 1, 2 and the text part of 3. Their norms multiply by one plus the weight; GGUF stores the sum.

use serde_json::{Map, Value};

use super::config::{Config, Layer, Names, NormKind, Positions, Sublayer};
use super::llama::{self, ATTENTION, Defaults, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::qwen::{QK_NORM_NAMES, QK_NORMS};
use super::rope::Rope;
use super::rotary::Rotary;
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, Has, Key, Missing, RMS_KEYS, complete, float, int};
use crate::backend::Activation;
use crate::error::Result;

/// Norms before and after attention and feed-forward.
const FOUR_NORMS: &[Name] = &[
    name("blk.{b}.attn_norm", "model.layers.{b}.input_layernorm"),
    name("blk.{b}.post_attention_norm", "model.layers.{b}.post_attention_layernorm"),
    name("blk.{b}.ffn_norm", "model.layers.{b}.pre_feedforward_layernorm"),
    name("blk.{b}.post_ffw_norm", "model.layers.{b}.post_feedforward_layernorm"),
];

const HEADS: &[Key] = &[
    int("head_dim", "attention.key_length").or(Missing::Int(256)),
    int("head_dim", "attention.value_length").or(Missing::Int(256)),
];

const SOFTCAPS: &[Key] = &[
    float("attn_logit_softcapping", "attn_logit_softcapping").or(Missing::Float(50.0)),
    float("final_logit_softcapping", "final_logit_softcapping").or(Missing::Float(30.0)),
    int("sliding_window", "attention.sliding_window").or(Missing::Int(4096)),
];

/// Gemma 3's config.json leaves out what its class has as default.
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

/// Sub-layers with a norm on either side.
const SANDWICHED: Names = Names {
    attention: Sublayer {
        output_norm: Some("layers.{b}.post_attention_layernorm"),
        ..llama::NAMES.attention
    },
    feed_forward: Sublayer {
        norm: Some("layers.{b}.pre_feedforward_layernorm"),
        output_norm: Some("layers.{b}.post_feedforward_layernorm"),
        ..llama::NAMES.feed_forward
    },
    ..llama::NAMES
};

fn gemma(settings: &Settings) -> Result<Config> {
    gemma_with(settings, 10_000.0)
}

fn gemma_with(settings: &Settings, theta: f64) -> Result<Config> {
    let config = llama::with(settings, Defaults { head_dim: Some(256), theta, ..Defaults::default() })?;
    Ok(Config {
        norm: NormKind { plus_one: true, ..config.norm },
        embedding_scale: Some((config.hidden as f32).sqrt()),
        // Files of the first release say "gelu" in hidden_act and mean the tanh form.
        activation: settings.activation(&["hidden_activation"], Activation::GeluTanh)?,
        ..config
    })
}

/// Every other layer slides, the first one does.
fn gemma2(settings: &Settings) -> Result<Config> {
    Ok(Config {
        names: SANDWICHED,
        attention_scale: query_scale(settings)?,
        attention_cap: settings.nullable("attn_logit_softcapping", 50.0)?,
        logit_cap: settings.nullable("final_logit_softcapping", 30.0)?,
        layers: settings.layers(settings.window(Some(4096))?, |layer| layer % 2 == 0)?,
        ..gemma(settings)?
    })
}

/// Five local layers, with rotations of their own, to a global one.
fn gemma3(settings: &Settings) -> Result<Config> {
    let config = gemma_with(settings, 1e6)?;
    let pattern = settings.optional(&["sliding_window_pattern"])?.unwrap_or(6).max(1);
    let layers = settings.layers(settings.window(Some(4096))?, |layer| (layer + 1) % pattern != 0)?;
    let layers = layers.into_iter().map(|l| Layer { rotary: usize::from(l.window.is_some()), ..l }).collect();
    let local = Rotary::new(&Rope::local(settings.0), config.head_dim, config.context)?;
    let positions = match config.positions {
        Positions::Rotary(global) => Positions::Rotary([global, vec![local]].concat()),
        other => other,
    };
    Ok(Config {
        names: Names { qk_norms: Some(QK_NORM_NAMES), ..SANDWICHED },
        attention_scale: query_scale(settings)?,
        attention_cap: settings.number(&["attn_logit_softcapping"])?.map(|cap| cap as f32),
        logit_cap: settings.number(&["final_logit_softcapping"])?.map(|cap| cap as f32),
        positions,
        layers,
        ..config
    })
}

fn query_scale(settings: &Settings) -> Result<f32> {
    Ok(settings.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5))
}

/// Gemma, CodeGemma.
pub static GEMMA: Arch = Arch {
    models: &[("gemma", "GemmaForCausalLM")],
    decoder: gemma,
    gguf: "gemma",
    names: &[ENDS, PRE_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEADS],
    fixed: &[("hidden_act", Fixed::Text("gelu_pytorch_tanh")), ACTIVATION],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete,
};

/// Gemma 2.
pub static GEMMA2: Arch = Arch {
    models: &[("gemma2", "Gemma2ForCausalLM")],
    decoder: gemma2,
    gguf: "gemma2",
    names: &[ENDS, FOUR_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEADS, SOFTCAPS],
    fixed: &[ACTIVATION],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete: attention_scale,
};

/// Gemma 3, text only.
pub static GEMMA3: Arch = Arch {
    models: &[("gemma3_text", "Gemma3ForCausalLM")],
    decoder: gemma3,
    gguf: "gemma3",
    names: &[ENDS, FOUR_NORMS, ATTENTION, QK_NORMS, FEED_FORWARD],
    keys: &[GEMMA3_KEYS, RMS_KEYS, HEADS],
    fixed: &[
        ACTIVATION,
        ("rope_local_base_freq", Fixed::Float(10_000.0)),
        ("sliding_window_pattern", Fixed::Int(6)),
    ],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete: attention_scale,
};

/// Blocks of the 27B models, the ones that scale attention by the width of the model rather than of the head. GGUF does
/// not say; llama.cpp tells them apart in this way too (`llama-model.cpp`, `f_attention_scale`).
const BLOCKS_OF_27B: [u64; 2] = [46, 62];

fn attention_scale(config: &mut Map<String, Value>, _: &Has) {
    let get = |key: &str| config.get(key).and_then(Value::as_u64);
    let per_head = get("hidden_size").zip(get("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
    let big = get("num_hidden_layers").is_some_and(|blocks| BLOCKS_OF_27B.contains(&blocks));
    let scalar = if big { per_head } else { get("head_dim") };
    if let Some(scalar) = scalar {
        config.insert("query_pre_attn_scalar".into(), scalar.into());
    }
}
