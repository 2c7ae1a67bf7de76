//! Phi-3, Phi-3.5 and Phi-4: fused qkv and gate/up projections, stored by GGUF as they are.

use serde_json::{Map, Value};

use super::config::{Config, Names, Sublayer};
use super::llama::{self, Defaults, ENDS, PRE_NORMS};
use super::names::{Name, name};
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, Has, Key, Missing, RMS_KEYS, int};
use crate::error::Result;

const FUSED: &[Name] = &[
    name("blk.{b}.attn_qkv", "model.layers.{b}.self_attn.qkv_proj"),
    name("blk.{b}.attn_output", "model.layers.{b}.self_attn.o_proj"),
    name("blk.{b}.ffn_up", "model.layers.{b}.mlp.gate_up_proj"),
    name("blk.{b}.ffn_down", "model.layers.{b}.mlp.down_proj"),
];

/// llama.cpp tells Phi-4 from its predecessors by a sliding window of 0.
const KEYS: &[Key] = &[
    int("sliding_window", "attention.sliding_window").or(Missing::Int(0)),
    int("original_max_position_embeddings", "rope.scaling.original_context_length")
        .or(Missing::Copy("max_position_embeddings")),
];

const NAMES: Names = Names {
    attention: Sublayer { input: &["layers.{b}.self_attn.qkv_proj"], ..llama::NAMES.attention },
    feed_forward: Sublayer { input: &["layers.{b}.mlp.gate_up_proj"], ..llama::NAMES.feed_forward },
    ..llama::NAMES
};

fn decoder(settings: &Settings) -> Result<Config> {
    let config = llama::with(settings, Defaults { epsilon: 1e-5, ..Defaults::default() })?;
    Ok(Config { names: NAMES, layers: settings.layers(settings.window(None)?, |_| true)?, ..config })
}

/// Phi-3 and Phi-4.
pub static PHI3: Arch = Arch {
    models: &[("phi3", "Phi3ForCausalLM")],
    decoder,
    gguf: "phi3",
    names: &[ENDS, PRE_NORMS, FUSED],
    keys: &[DECODER_KEYS, RMS_KEYS, KEYS],
    fixed: &[("hidden_act", Fixed::Text("silu"))],
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete: no_window,
};

fn no_window(config: &mut Map<String, Value>, _: &Has) {
    if config.get("sliding_window").and_then(Value::as_u64) == Some(0) {
        config.insert("sliding_window".into(), Value::Null);
    }
}
