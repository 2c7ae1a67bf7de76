//! Llama and what shares its graph: Mistral, SmolLM2, Mixtral (with experts).
//!
//! GGUF keeps these models' q and k in the order of the original Llama release, whose rope interleaves the halves of a
//! head. Names: <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py>.

use serde_json::{Map, Value};

use super::config::{Config, ExpertNames, Names, Positions, QkNorm, QkvOrder, Sublayer};
use super::names::{Name, name};
use super::rope::Rope;
use super::rotary::Rotary;
use super::settings::Settings;
use super::{Arch, Changes, DECODER_KEYS, Fixed, HEAD_KEYS, Has, Key, Missing, RMS_KEYS, complete, int};
use crate::backend::Activation;
use crate::error::Result;

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

/// What nearly every decoder of Hugging Face calls its tensors.
pub(super) const NAMES: Names = Names {
    base: "model.",
    embedding: "embed_tokens",
    positions: None,
    token_types: None,
    embedding_norm: None,
    projections: None,
    attention: Sublayer {
        norm: Some("layers.{b}.input_layernorm"),
        input: &["layers.{b}.self_attn.q_proj", "layers.{b}.self_attn.k_proj", "layers.{b}.self_attn.v_proj"],
        output: "layers.{b}.self_attn.o_proj",
        output_norm: None,
        after: None,
    },
    qkv: QkvOrder::Stacked,
    qk_norms: None,
    feed_forward: Sublayer {
        norm: Some("layers.{b}.post_attention_layernorm"),
        input: &["layers.{b}.mlp.gate_proj", "layers.{b}.mlp.up_proj"],
        output: "layers.{b}.mlp.down_proj",
        output_norm: None,
        after: None,
    },
    experts: None,
    transposed: false,
    final_norm: Some("norm"),
    head: Some("lm_head"),
};

const MIXTRAL_EXPERTS: ExpertNames = ExpertNames {
    router: "layers.{b}.block_sparse_moe.gate",
    input: ["layers.{b}.block_sparse_moe.experts.{e}.w1", "layers.{b}.block_sparse_moe.experts.{e}.w3"],
    output: "layers.{b}.block_sparse_moe.experts.{e}.w2",
    shared: None,
};

/// What stands for settings that config.json leaves out: the defaults of transformers' configuration class.
pub(super) struct Defaults {
    /// Columns of a head; `None` for hidden_size / heads.
    pub head_dim: Option<usize>,
    /// Base of the rotations.
    pub theta: f64,
    /// Part of a head that is rotated.
    pub partial: f64,
    /// Of RMSNorms.
    pub epsilon: f64,
    /// Positions that are not told by rotations.
    pub positions: Option<Positions>,
    /// [hidden size, heads], where config.json calls them otherwise.
    pub shape: Option<[usize; 2]>,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            head_dim: None,
            theta: 10_000.0,
            partial: 1.0,
            epsilon: 1e-6,
            positions: None,
            shape: None,
        }
    }
}

/// The decoder of Llama.
pub(super) fn decoder(settings: &Settings) -> Result<Config> {
    with(settings, Defaults::default())
}

/// The decoder of a model that differs from Llama in little.
pub(super) fn with(settings: &Settings, defaults: Defaults) -> Result<Config> {
    let named = || Ok([settings.size(&["hidden_size"])?, settings.size(&["num_attention_heads"])?]);
    let [hidden, heads] = defaults.shape.map_or_else(named, Ok)?;
    let head_dim = settings.optional(&["head_dim"])?.or(defaults.head_dim).unwrap_or(hidden / heads);
    let context = settings.optional(&["max_position_embeddings"])?;
    let rotary = || {
        let mut rope = Rope::read(settings.0, defaults.theta);
        rope.partial.get_or_insert(defaults.partial);
        Ok(Positions::Rotary(vec![Rotary::new(&rope, head_dim, context)?]))
    };
    let positions = defaults.positions.map_or_else(rotary, Ok)?;
    Ok(Config {
        names: NAMES,
        hidden,
        heads,
        kv_heads: settings.optional(&["num_key_value_heads"])?.unwrap_or(heads),
        head_dim,
        context,
        norm: settings.rms_norm(defaults.epsilon)?,
        positions,
        embedding_scale: None,
        attention_scale: (head_dim as f32).powf(-0.5),
        scale_by_block: false,
        qkv_clip: None,
        attention_cap: None,
        qk_norm: QkNorm::Head,
        causal: true,
        activation: settings.activation(&["hidden_act"], Activation::Silu)?,
        gated: true,
        parallel: false,
        experts: None,
        logit_cap: None,
        tied: false,
        layers: settings.layers(None, |_| false)?,
    })
}

/// Every layer of Mistral slides where there is a window.
fn mistral(settings: &Settings) -> Result<Config> {
    let window = settings.window(None)?.filter(|_| settings.text("model_type") == Some("mistral"));
    Ok(Config { layers: settings.layers(window, |_| true)?, ..decoder(settings)? })
}

fn mixtral(settings: &Settings) -> Result<Config> {
    let names = Names { experts: Some(MIXTRAL_EXPERTS), ..NAMES };
    let config = with(settings, Defaults { theta: 1e6, epsilon: 1e-5, ..Defaults::default() })?;
    let layers = settings.layers(settings.window(None)?, |_| true)?;
    Ok(Config { names, experts: settings.experts(true)?, layers, ..config })
}

/// Llama 1 to 3, SmolLM2; Mistral.
pub static LLAMA: Arch = Arch {
    models: &[("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM")],
    decoder: mistral,
    gguf: "llama",
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
    models: &[("mixtral", "MixtralForCausalLM")],
    decoder: mixtral,
    gguf: "llama",
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
