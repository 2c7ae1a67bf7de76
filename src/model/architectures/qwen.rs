//! Qwen2, Qwen3 and their mixtures of experts.

use super::llama::{ATTENTION, GATED, GGUF, LAYER, OUTLINE, SILU};
use super::parts::*;

/// Attention with norms of each head's queries and keys.
pub(super) const NORMED_ATTENTION: Attention = Attention {
    norms: Some(HeadNorms {
        names: ["layers.{b}.self_attn.q_norm", "layers.{b}.self_attn.k_norm"],
        whole: false,
    }),
    ..ATTENTION
};

/// Qwen's experts; OLMoE's too.
pub(super) const EXPERTS: Experts = Experts {
    router: "layers.{b}.mlp.gate",
    expert: Gated {
        input: GateUp::Separate([
            "layers.{b}.mlp.experts.{e}.gate_proj",
            "layers.{b}.mlp.experts.{e}.up_proj",
        ]),
        down: "layers.{b}.mlp.experts.{e}.down_proj",
        ..GATED
    },
    shared: None,
    dense: GATED,
    choice: None,
    renormalize: false,
};

const SHARED_EXPERT: SharedExpert = SharedExpert {
    network: Gated {
        input: GateUp::Separate([
            "layers.{b}.mlp.shared_expert.gate_proj",
            "layers.{b}.mlp.shared_expert.up_proj",
        ]),
        down: "layers.{b}.mlp.shared_expert.down_proj",
        ..GATED
    },
    gate: "layers.{b}.mlp.shared_expert_gate",
};

const EXPERT_KEYS: &[Key] = &[
    int("num_experts", "expert_count").or(Missing::Copy("num_local_experts")),
    int("num_experts_per_tok", "expert_used_count"),
    int("moe_intermediate_size", "expert_feed_forward_length"),
];

const SHARED_EXPERT_KEYS: &[Key] =
    &[int("shared_expert_intermediate_size", "expert_shared_feed_forward_length").or(Missing::Omit)];

const NO_SLIDING: (&str, Fixed) = ("use_sliding_window", Fixed::Bool(false));
const ALL_SPARSE: (&str, Fixed) = ("decoder_sparse_step", Fixed::Int(1));

/// Reads the window, if sliding is on.
fn window(settings: &Settings) -> Result<Option<usize>> {
    let slides = settings.flag("use_sliding_window", false)?;
    Ok(settings.window(Some(4096))?.filter(|_| slides))
}

/// Gives layers from `max_window_layers` on the window (Qwen 2 and 3).
fn last_slide(settings: &Settings, model: &mut Model) -> Result<()> {
    let first = settings.optional(&["max_window_layers"])?.unwrap_or(28);
    model.slide(settings, window(settings)?, |layer| layer >= first)
}

/// Gives every other layer before `max_window_layers` the window.
fn even_slide(settings: &Settings, model: &mut Model) -> Result<()> {
    let end = settings.optional(&["max_window_layers"])?.unwrap_or(28);
    model.slide(settings, window(settings)?, |layer| layer % 2 == 0 && layer < end)
}

fn all_slide(settings: &Settings, model: &mut Model) -> Result<()> {
    model.slide(settings, window(settings)?, |_| true)
}

/// Qwen2, Qwen2.5: biases on q, k and v.
pub(crate) static QWEN2: Arch = Arch {
    models: &[("qwen2", "Qwen2ForCausalLM")],
    outline: OUTLINE,
    adjust: last_slide,
    gguf: GgufForm { name: "qwen2", keys: &[DECODER_KEYS, RMS_KEYS], fixed: &[SILU, NO_SLIDING], ..GGUF },
};

/// Qwen1.5-MoE, Qwen2-MoE: experts and one that all tokens share.
pub(crate) static QWEN2_MOE: Arch = Arch {
    models: &[("qwen2_moe", "Qwen2MoeForCausalLM")],
    outline: Outline {
        layer: Layer {
            feed_forward: FeedForward::Experts(Experts { shared: Some(SHARED_EXPERT), ..EXPERTS }),
            ..LAYER
        },
        ..OUTLINE
    },
    adjust: even_slide,
    gguf: GgufForm {
        name: "qwen2moe",
        keys: &[DECODER_KEYS, RMS_KEYS, EXPERT_KEYS, SHARED_EXPERT_KEYS],
        fixed: &[SILU, NO_SLIDING, ("norm_topk_prob", Fixed::Bool(false)), ALL_SPARSE],
        ..GGUF
    },
};

/// Qwen3: norms on q and k.
pub(crate) static QWEN3: Arch = Arch {
    models: &[("qwen3", "Qwen3ForCausalLM")],
    outline: Outline {
        layer: Layer { mixer: Mixer::Attention(Attention { head_dim: 128, ..NORMED_ATTENTION }), ..LAYER },
        ..OUTLINE
    },
    adjust: last_slide,
    gguf: GgufForm { name: "qwen3", fixed: &[SILU, NO_SLIDING], ..GGUF },
};

/// Qwen3-MoE.
pub(crate) static QWEN3_MOE: Arch = Arch {
    models: &[("qwen3_moe", "Qwen3MoeForCausalLM")],
    outline: Outline {
        layer: Layer {
            mixer: Mixer::Attention(NORMED_ATTENTION),
            feed_forward: FeedForward::Experts(EXPERTS),
            ..LAYER
        },
        ..OUTLINE
    },
    adjust: all_slide,
    gguf: GgufForm {
        name: "qwen3moe",
        keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS, EXPERT_KEYS],
        fixed: &[SILU, NO_SLIDING, ("norm_topk_prob", Fixed::Bool(true)), ALL_SPARSE],
        ..GGUF
    },
};
