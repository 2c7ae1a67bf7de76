//! OLMo 2: norms after attention and feed-forward, and over whole q and k.

use super::config::{Config, Names, QkNorm, Sublayer};
use super::llama::{self, ATTENTION, Defaults, ENDS, FEED_FORWARD};
use super::names::{Name, name};
use super::qwen::{EXPERT_NAMES, QK_NORM_NAMES, QK_NORMS};
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, RMS_KEYS, complete};
use crate::error::Result;

const POST_NORMS: &[Name] = &[
    name("blk.{b}.post_attention_norm", "model.layers.{b}.post_attention_layernorm"),
    name("blk.{b}.post_ffw_norm", "model.layers.{b}.post_feedforward_layernorm"),
];

const DEFAULTS: Defaults =
    Defaults { head_dim: None, theta: 10_000.0, partial: 1.0, epsilon: 1e-5, positions: None, shape: None };

/// OLMo 2 has norms after its sub-layers only.
const OLMO2_NAMES: Names = Names {
    attention: Sublayer {
        norm: None,
        output_norm: Some("layers.{b}.post_attention_layernorm"),
        ..llama::NAMES.attention
    },
    feed_forward: Sublayer {
        norm: None,
        output_norm: Some("layers.{b}.post_feedforward_layernorm"),
        ..llama::NAMES.feed_forward
    },
    qk_norms: Some(QK_NORM_NAMES),
    ..llama::NAMES
};

fn olmo2(settings: &Settings) -> Result<Config> {
    let config = llama::with(settings, DEFAULTS)?;
    Ok(Config { names: OLMO2_NAMES, qk_norm: QkNorm::Whole, ..config })
}

fn olmoe(settings: &Settings) -> Result<Config> {
    let names = Names { qk_norms: Some(QK_NORM_NAMES), experts: Some(EXPERT_NAMES), ..llama::NAMES };
    Ok(Config {
        names,
        qk_norm: QkNorm::Whole,
        qkv_clip: settings.number(&["clip_qkv"])?.map(|limit| limit as f32),
        experts: settings.experts(settings.flag("norm_topk_prob", false)?)?,
        ..llama::with(settings, DEFAULTS)?
    })
}

/// OLMoE.
pub static OLMOE: Arch =
    Arch { models: &[("olmoe", "OlmoeForCausalLM")], decoder: olmoe, ..Arch::HUGGING_FACE_ONLY };

/// OLMo 2.
pub static OLMO2: Arch = Arch {
    models: &[("olmo2", "Olmo2ForCausalLM")],
    decoder: olmo2,
    gguf: "olmo2",
    names: &[ENDS, POST_NORMS, ATTENTION, QK_NORMS, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS],
    fixed: &[("hidden_act", Fixed::Text("silu"))],
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete,
};
