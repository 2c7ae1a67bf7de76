//! Gemma 1, 2 and the text part of 3. Their norms multiply by one plus the weight; GGUF stores the sum.

use serde_json::{Map, Value};

use super::llama::{ATTENTION, ENDS, FEED_FORWARD, PRE_NORMS};
use super::names::{Name, name};
use super::qwen::QK_NORMS;
use super::{Arch, Changes, DECODER_KEYS, Fixed, Has, Key, Missing, RMS_KEYS, complete, float, int};

/// Norms before and after attention and feed-forward.
const FOUR_NORMS: &[Name] = &[
    name("blk.{b}.attn_norm", "model.layers.{b}.input_layernorm"),
    name("blk.{b}.post_attention_norm", "model.layers.{b}.post_attention_layernorm"),
    name("blk.{b}.ffn_norm", "model.layers.{b}.pre_feedforward_layernorm"),
    name("blk.{b}.post_ffw_norm", "model.layers.{b}.post_feedforward_layernorm"),
];

const HEADS: &[Key] = &[
    int("head_dim", "attention.key_length").or(Missing::Int(256)),
    int("head_dim", "attention.value_length").or(Missing::Int(256)),
];

const SOFTCAPS: &[Key] = &[
    float("attn_logit_softcapping", "attn_logit_softcapping").or(Missing::Float(50.0)),
    float("final_logit_softcapping", "final_logit_softcapping").or(Missing::Float(30.0)),
    int("sliding_window", "attention.sliding_window").or(Missing::Int(4096)),
];

/// Gemma 3's config.json leaves out what its class has as default.
const GEMMA3_KEYS: &[Key] = &[
    int("max_position_embeddings", "context_length").or(Missing::Int(131_072)),
    int("hidden_size", "embedding_length"),
    int("num_hidden_layers", "block_count"),
    int("intermediate_size", "feed_forward_length"),
    int("num_attention_heads", "attention.head_count").or(Missing::Int(8)),
    int("num_key_value_heads", "attention.head_count_kv").or(Missing::Int(4)),
    int("sliding_window", "attention.sliding_window").or(Missing::Int(4096)),
];

const ACTIVATION: (&str, Fixed) = ("hidden_activation", Fixed::Text("gelu_pytorch_tanh"));

/// Gemma, CodeGemma.
pub static GEMMA: Arch = Arch {
    gguf: "gemma",
    models: &[("gemma", "GemmaForCausalLM")],
    names: &[ENDS, PRE_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEADS],
    fixed: &[("hidden_act", Fixed::Text("gelu_pytorch_tanh")), ACTIVATION],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete,
};

/// Gemma 2.
pub static GEMMA2: Arch = Arch {
    gguf: "gemma2",
    models: &[("gemma2", "Gemma2ForCausalLM")],
    names: &[ENDS, FOUR_NORMS, ATTENTION, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS, HEADS, SOFTCAPS],
    fixed: &[ACTIVATION],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete: attention_scale,
};

/// Gemma 3, text only.
pub static GEMMA3: Arch = Arch {
    gguf: "gemma3",
    models: &[("gemma3_text", "Gemma3ForCausalLM")],
    names: &[ENDS, FOUR_NORMS, ATTENTION, QK_NORMS, FEED_FORWARD],
    keys: &[GEMMA3_KEYS, RMS_KEYS, HEADS],
    fixed: &[
        ACTIVATION,
        ("rope_local_base_freq", Fixed::Float(10_000.0)),
        ("sliding_window_pattern", Fixed::Int(6)),
    ],
    changes: Changes::Norms,
    experts: false,
    tied_by_default: true,
    complete: attention_scale,
};

/// Blocks of the 27B models, the ones that scale attention by the width of the model rather than of the head. GGUF does
/// not say; llama.cpp tells them apart in this way too (`llama-model.cpp`, `f_attention_scale`).
const BLOCKS_OF_27B: [u64; 2] = [46, 62];

fn attention_scale(config: &mut Map<String, Value>, _: &Has) {
    let get = |key: &str| config.get(key).and_then(Value::as_u64);
    let per_head = get("hidden_size").zip(get("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
    let big = get("num_hidden_layers").is_some_and(|blocks| BLOCKS_OF_27B.contains(&blocks));
    let scalar = if big { per_head } else { get("head_dim") };
    if let Some(scalar) = scalar {
        config.insert("query_pre_attn_scalar".into(), scalar.into());
    }
}
