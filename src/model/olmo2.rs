//! OLMo 2: norms after attention and feed-forward, and over whole q and k.

use super::llama::{ATTENTION, ENDS, FEED_FORWARD};
use super::names::{Name, name};
use super::qwen::QK_NORMS;
use super::{Arch, Changes, DECODER_KEYS, Fixed, RMS_KEYS, complete};

const POST_NORMS: &[Name] = &[
    name("blk.{b}.post_attention_norm", "model.layers.{b}.post_attention_layernorm"),
    name("blk.{b}.post_ffw_norm", "model.layers.{b}.post_feedforward_layernorm"),
];

/// OLMo 2.
pub static OLMO2: Arch = Arch {
    gguf: "olmo2",
    models: &[("olmo2", "Olmo2ForCausalLM")],
    names: &[ENDS, POST_NORMS, ATTENTION, QK_NORMS, FEED_FORWARD],
    keys: &[DECODER_KEYS, RMS_KEYS],
    fixed: &[("hidden_act", Fixed::Text("silu"))],
    changes: Changes::None,
    experts: false,
    tied_by_default: false,
    complete,
};
