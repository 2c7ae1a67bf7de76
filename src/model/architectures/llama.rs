//! Llama and what shares its graph: Mistral, SmolLM2, Mixtral (with experts). The outline here is the one that the other
//! architectures differ from.
//!
//! GGUF keeps these models' q and k in the order of the original Llama release, whose rope interleaves the halves of a
//! head.

use serde_json::{Map, Value};

use super::parts::*;

pub(super) const FRAME: Frame = Frame {
    base: "model.",
    transposed: false,
    norm: NormKind { centered: false, epsilon: 1e-6, plus_one: false },
    embedding: EmbeddingTables {
        tokens: "embed_tokens",
        projections: None,
        scale: None,
        positions: None,
        types: None,
        norm: None,
    },
    final_norm: Some("norm"),
    head: Some("lm_head"),
    tied: false,
    logit_cap: None,
};

pub(super) const ATTENTION: Attention = Attention {
    input: Projections::Separate([
        "layers.{b}.self_attn.q_proj",
        "layers.{b}.self_attn.k_proj",
        "layers.{b}.self_attn.v_proj",
    ]),
    output: "layers.{b}.self_attn.o_proj",
    norms: None,
    heads: 0,
    kv_heads: 0,
    head_dim: 0,
    scale: 1.0,
    soft_cap: None,
    window: None,
    clip: None,
    rotary: Some(0),
    alibi: false,
    causal: true,
};

pub(super) const GATED: Gated = Gated {
    input: GateUp::Separate(["layers.{b}.mlp.gate_proj", "layers.{b}.mlp.up_proj"]),
    down: "layers.{b}.mlp.down_proj",
    activation: Activation::Silu,
};

pub(super) const LAYER: Layer = Layer {
    mixer: Mixer::Attention(ATTENTION),
    feed_forward: FeedForward::Gated(GATED),
    norms: Norms {
        mixer: SublayerNorms::before("layers.{b}.input_layernorm"),
        feed_forward: SublayerNorms::before("layers.{b}.post_attention_layernorm"),
    },
    parallel: false,
};

pub(super) const ROTATION: RotationDefaults = RotationDefaults { theta: 10_000.0, partial: 1.0 };

pub(super) const KEYS: SettingKeys = SettingKeys {
    hidden: &["hidden_size"],
    context: &["max_position_embeddings"],
    heads: &["num_attention_heads"],
    kv_heads: &["num_key_value_heads"],
    head_dim: &["head_dim"],
    heads_divide_width: false,
    feed_forward: &["intermediate_size"],
    expert_feed_forward: &["moe_intermediate_size"],
    activation: &["hidden_act"],
    epsilon: &["rms_norm_eps"],
};

/// The keys of mixtures whose experts are as wide as a network alone would be.
pub(super) const UNIFORM_KEYS: SettingKeys = SettingKeys { expert_feed_forward: KEYS.feed_forward, ..KEYS };

pub(super) const OUTLINE: Outline =
    Outline { frame: FRAME, layer: LAYER, rotation: Some(ROTATION), keys: KEYS };

pub(super) const SILU: (&str, Fixed) = ("hidden_act", Fixed::Text("silu"));

const MIXTRAL_EXPERTS: Experts = Experts {
    router: "layers.{b}.block_sparse_moe.gate",
    expert: Gated {
        input: GateUp::Separate([
            "layers.{b}.block_sparse_moe.experts.{e}.w1",
            "layers.{b}.block_sparse_moe.experts.{e}.w3",
        ]),
        down: "layers.{b}.block_sparse_moe.experts.{e}.w2",
        ..GATED
    },
    shared: None,
    dense: GATED,
    choice: None,
    renormalize: true,
};

const EXPERT_KEYS: &[Key] = &[
    int("num_local_experts", "expert_count").or(Missing::Int(8)),
    int("num_experts_per_tok", "expert_used_count").or(Missing::Int(2)),
];

/// Gives every layer of Mistral the window, if there is one.
fn mistral(settings: &Settings, model: &mut Model) -> Result<()> {
    let is_mistral = settings.text("model_type")? == Some("mistral");
    let window = settings.window(None)?.filter(|_| is_mistral);
    model.slide(settings, window, |_| true)
}

/// Gives every layer the window, if there is one.
pub(super) fn all_slide(settings: &Settings, model: &mut Model) -> Result<()> {
    model.slide(settings, settings.window(None)?, |_| true)
}

/// The base of architectures without a form in GGUF.
pub(super) const HUGGING_FACE_ONLY: Arch =
    Arch { models: &[], outline: OUTLINE, adjust, gguf: GgufForm::NONE };

/// The base of forms in GGUF.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "llama",
    keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS],
    fixed: &[SILU],
    changes: Changes::None,
    complete,
};

/// Llama 1 to 3, SmolLM2; Mistral.
pub(crate) static LLAMA: Arch = Arch {
    models: &[("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM")],
    outline: Outline { keys: SettingKeys { heads_divide_width: true, ..KEYS }, ..OUTLINE },
    adjust: mistral,
    gguf: GgufForm { changes: Changes::Rope, complete: biases, ..GGUF },
};

/// Mixtral.
pub(crate) static MIXTRAL: Arch = Arch {
    models: &[("mixtral", "MixtralForCausalLM")],
    outline: Outline {
        frame: Frame { norm: NormKind { epsilon: 1e-5, ..FRAME.norm }, ..FRAME },
        layer: Layer { feed_forward: FeedForward::Experts(MIXTRAL_EXPERTS), ..LAYER },
        rotation: Some(RotationDefaults { theta: 1e6, ..ROTATION }),
        keys: UNIFORM_KEYS,
    },
    adjust: all_slide,
    gguf: GgufForm {
        keys: &[DECODER_KEYS, RMS_KEYS, HEAD_KEYS, EXPERT_KEYS],
        changes: Changes::Rope,
        ..GGUF
    },
};

fn biases(config: &mut Map<String, Value>, has: &HasTensor) {
    config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".into(), has("blk.0.ffn_down.bias").into());
}
