//! Qwen2, Qwen3 and their mixtures of experts.

use super::llama::{ATTENTION, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::{Arch, Changes, DECODER_KEYS, Fixed, HEAD_KEYS, Key, Missing, RMS_KEYS, complete, int};

/// Norms of each head's queries and keys.
pub(super) const QK_NORMS: &[Name] = &[
    name("blk.{b}.attn_q_norm", "model.layers.{b}.self_attn.q_norm"),
    name("blk.{b}.attn_k_norm", "model.layers.{b}.self_attn.k_norm"),
];

const EXPERTS: &[Name] = &[
    name("blk.{b}.ffn_gate_inp", "model.layers.{b}.mlp.gate"),
    name("blk.{b}.ffn_gate_exps", "model.layers.{b}.mlp.experts.{e}.gate_proj"),
    name("blk.{b}.ffn_up_exps", "model.layers.{b}.mlp.experts.{e}.up_proj"),
    name("blk.{b}.ffn_down_exps", "model.layers.{b}.mlp.experts.{e}.down_proj"),
];

/// One row in Hugging Face, [1, hidden]; a vector in GGUF.
pub(super) const SQUEEZED: &str = "blk.{b}.ffn_gate_inp_shexp";

const SHARED_EXPERT: &[Name] = &[
    name(SQUEEZED, "model.layers.{b}.mlp.shared_expert_gate"),
    name("blk.{b}.ffn_gate_shexp", "model.layers.{b}.mlp.shared_expert.gate_proj"),
    name("blk.{b}.ffn_up_shexp", "model.layers.{b}.mlp.shared_expert.up_proj"),
    name("blk.{b}.ffn_down_shexp", "model.layers.{b}.mlp.shared_expert.down_proj"),
];

const EXPERT_KEYS: &[Key] = &[
    int("num_experts", "expert_count").or(Missing::Copy("num_local_experts")),
    int("num_experts_per_tok", "expert_used_count"),
    int("moe_intermediate_size", "expert_feed_forward_length"),
];

const SHARED_EXPERT_KEYS: &[Key] =
    &[int("shared_expert_intermediate_size", "expert_shared_feed_forward_length").or(Missing::Omit)];

const FIXED: &[(&str, Fixed)] =
    &[("hidden_act", Fixed::Text("silu")), ("use_sliding_window", Fixed::Bool(false))];

/// Qwen2, Qwen2.5: biases on q, k and v.
pub static QWEN2: Arch = Arch {
    gguf: "qwen2",
    models: &[("qwen2", "Qwen2ForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS],
    fixed: FIXED,
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete,
};

/// Qwen1.5-MoE, Qwen2-MoE: experts and one that all tokens share.
pub static QWEN2_MOE: Arch = Arch {
    gguf: "qwen2moe",
    models: &[("qwen2_moe", "Qwen2MoeForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, EXPERTS, SHARED_EXPERT],
    keys: &[DECODER_KEYS, RMS_KEYS, EXPERT_KEYS, SHARED_EXPERT_KEYS],
    fixed: &[
        ("hidden_act", Fixed::Text("silu")),
        ("use_sliding_window", Fixed::Bool(false)),
        ("norm_topk_prob", Fixed::Bool(false)),
        ("decoder_sparse_step", Fixed::Int(1)),
    ],
    changes: Changes::None,
    experts: true,
    tied_by_default: false,
    complete,
};

/// Qwen3: norms on q and k.
pub static QWEN3: Arch = Arch {
    gguf: "qwen3",
    models: &[("qwen3", "Qwen3ForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, QK_NORMS, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS],
    fixed: FIXED,
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete,
};

/// Qwen3-MoE.
pub static QWEN3_MOE: Arch = Arch {
    gguf: "qwen3moe",
    models: &[("qwen3_moe", "Qwen3MoeForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, QK_NORMS, EXPERTS],
    keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS, EXPERT_KEYS],
    fixed: &[
        ("hidden_act", Fixed::Text("silu")),
        ("use_sliding_window", Fixed::Bool(false)),
        ("norm_topk_prob", Fixed::Bool(true)),
        ("decoder_sparse_step", Fixed::Int(1)),
    ],
    changes: Changes::None,
    experts: true,
    tied_by_default: false,
    complete,
};
