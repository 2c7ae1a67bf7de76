//! Llama and what shares its graph: Mistral, SmolLM2, Mixtral (with experts).
//!
//! GGUF keeps these models' q and k in the order of the original Llama release, whose rope interleaves the halves of a
//! head. Names: <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py>.

use serde_json::{Map, Value};

use super::names::{Name, name};
use super::{Arch, Changes, DECODER_KEYS, Fixed, HEAD_KEYS, Has, Key, Missing, RMS_KEYS, complete, int};

/// Embedding, final norm and head.
pub(super) const ENDS: &[Name] =
    &[name("token_embd", "model.embed_tokens"), name("output_norm", "model.norm"), name("output", "lm_head")];

/// Attention with separate projections.
pub(super) const ATTENTION: &[Name] = &[
    name("blk.{b}.attn_q", "model.layers.{b}.self_attn.q_proj"),
    name("blk.{b}.attn_k", "model.layers.{b}.self_attn.k_proj"),
    name("blk.{b}.attn_v", "model.layers.{b}.self_attn.v_proj"),
    name("blk.{b}.attn_output", "model.layers.{b}.self_attn.o_proj"),
];

/// A gated feed-forward.
pub(super) const FEED_FORWARD: &[Name] = &[
    name("blk.{b}.ffn_gate", "model.layers.{b}.mlp.gate_proj"),
    name("blk.{b}.ffn_up", "model.layers.{b}.mlp.up_proj"),
    name("blk.{b}.ffn_down", "model.layers.{b}.mlp.down_proj"),
];

/// A norm before attention, another before the feed-forward.
pub(super) const PRE_NORMS: &[Name] = &[
    name("blk.{b}.attn_norm", "model.layers.{b}.input_layernorm"),
    name("blk.{b}.ffn_norm", "model.layers.{b}.post_attention_layernorm"),
];

/// Mixtral's router and experts.
const EXPERTS: &[Name] = &[
    name("blk.{b}.ffn_gate_inp", "model.layers.{b}.block_sparse_moe.gate"),
    name("blk.{b}.ffn_gate_exps", "model.layers.{b}.block_sparse_moe.experts.{e}.w1"),
    name("blk.{b}.ffn_down_exps", "model.layers.{b}.block_sparse_moe.experts.{e}.w2"),
    name("blk.{b}.ffn_up_exps", "model.layers.{b}.block_sparse_moe.experts.{e}.w3"),
];

const EXPERT_KEYS: &[Key] = &[
    int("num_local_experts", "expert_count").or(Missing::Int(8)),
    int("num_experts_per_tok", "expert_used_count").or(Missing::Int(2)),
];

const FIXED: &[(&str, Fixed)] = &[("hidden_act", Fixed::Text("silu"))];

/// Llama 1 to 3, Mistral, SmolLM2.
pub static LLAMA: Arch = Arch {
    gguf: "llama",
    models: &[("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS],
    fixed: FIXED,
    changes: Changes::Rope,
    experts: false,
    tied_by_default: false,
    complete: biases,
};

/// Mixtral.
pub static MIXTRAL: Arch = Arch {
    gguf: "llama",
    models: &[("mixtral", "MixtralForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, EXPERTS],
    keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS, EXPERT_KEYS],
    fixed: FIXED,
    changes: Changes::Rope,
    experts: true,
    tied_by_default: false,
    complete,
};

fn biases(config: &mut Map<String, Value>, has: &Has) {
    config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".into(), has("blk.0.ffn_down.bias").into());
}
