//! StableLM 2: layer norms with biases, partial rope, in the 12B a norm per head.

use serde_json::{Map, Value};

use super::config::{Config, Names, Sublayer};
use super::llama::{self, ATTENTION, Defaults, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, Has, Key, Kind, Missing, float};
use crate::error::Result;

/// One norm per head, stacked by GGUF.
const HEAD_NORMS: &[Name] = &[
    name("blk.{b}.attn_q_norm", "model.layers.{b}.self_attn.q_layernorm.norms.{e}"),
    name("blk.{b}.attn_k_norm", "model.layers.{b}.self_attn.k_layernorm.norms.{e}"),
];

const KEYS: &[Key] = &[
    float("layer_norm_eps", "attention.layer_norm_epsilon").or(Missing::Float(1e-5)),
    Key {
        hf: "use_parallel_residual",
        gguf: "use_parallel_residual",
        kind: Kind::Bool,
        missing: Missing::Bool(false),
    },
];

const QK_NORM_NAMES: [&str; 2] =
    ["layers.{b}.self_attn.q_layernorm.norms.{e}", "layers.{b}.self_attn.k_layernorm.norms.{e}"];

/// A quarter of each head is rotated where config.json does not say.
fn decoder(settings: &Settings) -> Result<Config> {
    let parallel = settings.flag("use_parallel_residual", false)?;
    let per_head = settings.flag("qk_layernorm", false)?;
    let names = Names { qk_norms: Some(QK_NORM_NAMES).filter(|_| per_head), ..llama::NAMES };
    // In parallel, one norm serves both sub-layers.
    let feed_forward = Sublayer { norm: names.feed_forward.norm.filter(|_| !parallel), ..names.feed_forward };
    Ok(Config {
        names: Names { feed_forward, ..names },
        parallel,
        norm: settings.layer_norm("layer_norm_eps", 1e-5)?,
        ..llama::with(settings, Defaults { partial: 0.25, ..Defaults::default() })?
    })
}

/// StableLM 2.
pub static STABLELM: Arch = Arch {
    models: &[("stablelm", "StableLmForCausalLM")],
    decoder,
    gguf: "stablelm",
    names: &[ENDS, PRE_NORMS, ATTENTION, HEAD_NORMS, FEED_FORWARD],
    keys: &[DECODER_KEYS, KEYS],
    fixed: &[("hidden_act", Fixed::Text("silu"))],
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete: options,
};

fn options(config: &mut Map<String, Value>, has: &Has) {
    config.insert("use_qkv_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("qk_layernorm".into(), has("blk.0.attn_q_norm.weight").into());
}
