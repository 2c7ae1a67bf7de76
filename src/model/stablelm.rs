//! StableLM 2: layer norms with biases, partial rope, in the 12B a norm per head.

use serde_json::{Map, Value};

use super::llama::{ATTENTION, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::{Arch, Changes, DECODER_KEYS, Fixed, Has, Key, Kind, Missing, float};

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

/// StableLM 2.
pub static STABLELM: Arch = Arch {
    gguf: "stablelm",
    models: &[("stablelm", "StableLmForCausalLM")],
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
