//! Qwen2, Qwen3 and their mixtures of experts.

use super::config::{Config, ExpertNames, Layer, Names, SharedNames};
use super::llama::{self, ATTENTION, Defaults, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, HEAD_KEYS, Key, Missing, RMS_KEYS, complete, int};
use crate::error::Result;

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

/// What Qwen 3 calls the norms of q and k; OLMo too.
pub(super) const QK_NORM_NAMES: [&str; 2] = ["layers.{b}.self_attn.q_norm", "layers.{b}.self_attn.k_norm"];

/// Qwen's experts; OLMoE's too.
pub(super) const EXPERT_NAMES: ExpertNames = ExpertNames {
    router: "layers.{b}.mlp.gate",
    input: ["layers.{b}.mlp.experts.{e}.gate_proj", "layers.{b}.mlp.experts.{e}.up_proj"],
    output: "layers.{b}.mlp.experts.{e}.down_proj",
    shared: None,
};

const SHARED_NAMES: SharedNames = SharedNames {
    input: ["layers.{b}.mlp.shared_expert.gate_proj", "layers.{b}.mlp.shared_expert.up_proj"],
    output: "layers.{b}.mlp.shared_expert.down_proj",
    gate: "layers.{b}.mlp.shared_expert_gate",
};

/// The window, where sliding is on at all.
fn window(settings: &Settings) -> Result<Option<usize>> {
    let slides = settings.flag("use_sliding_window", false)?;
    Ok(settings.window(Some(4096))?.filter(|_| slides))
}

/// Qwen 2 and 3: layers from `max_window_layers` on slide.
fn last_slide(settings: &Settings) -> Result<Vec<Layer>> {
    let first = settings.optional(&["max_window_layers"])?.unwrap_or(28);
    settings.layers(window(settings)?, |layer| layer >= first)
}

fn qwen2(settings: &Settings) -> Result<Config> {
    Ok(Config { layers: last_slide(settings)?, ..llama::decoder(settings)? })
}

/// Every other layer before `max_window_layers` slides.
fn qwen2_moe(settings: &Settings) -> Result<Config> {
    let experts = Some(ExpertNames { shared: Some(SHARED_NAMES), ..EXPERT_NAMES });
    let end = settings.optional(&["max_window_layers"])?.unwrap_or(28);
    Ok(Config {
        names: Names { experts, ..llama::NAMES },
        experts: settings.experts(settings.flag("norm_topk_prob", false)?)?,
        layers: settings.layers(window(settings)?, |layer| layer % 2 == 0 && layer < end)?,
        ..llama::decoder(settings)?
    })
}

fn qwen3(settings: &Settings) -> Result<Config> {
    let names = Names { qk_norms: Some(QK_NORM_NAMES), ..llama::NAMES };
    let config = llama::with(settings, Defaults { head_dim: Some(128), ..Defaults::default() })?;
    Ok(Config { names, layers: last_slide(settings)?, ..config })
}

fn qwen3_moe(settings: &Settings) -> Result<Config> {
    Ok(Config {
        names: Names { qk_norms: Some(QK_NORM_NAMES), experts: Some(EXPERT_NAMES), ..llama::NAMES },
        experts: settings.experts(settings.flag("norm_topk_prob", false)?)?,
        layers: settings.layers(window(settings)?, |_| true)?,
        ..llama::decoder(settings)?
    })
}

/// Qwen2, Qwen2.5: biases on q, k and v.
pub static QWEN2: Arch = Arch {
    models: &[("qwen2", "Qwen2ForCausalLM")],
    decoder: qwen2,
    gguf: "qwen2",
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
    models: &[("qwen2_moe", "Qwen2MoeForCausalLM")],
    decoder: qwen2_moe,
    gguf: "qwen2moe",
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
    models: &[("qwen3", "Qwen3ForCausalLM")],
    decoder: qwen3,
    gguf: "qwen3",
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
    models: &[("qwen3_moe", "Qwen3MoeForCausalLM")],
    decoder: qwen3_moe,
    gguf: "qwen3moe",
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
