//! BLOOM: ALiBi, a norm on the embeddings, q/k/v fused head by head.

use super::Arch;
use super::config::{Config, Names, Positions, QkvOrder, Sublayer};
use super::llama::{self, Defaults};
use super::settings::Settings;
use crate::backend::Activation;
use crate::error::Result;

const NAMES: Names = Names {
    base: "transformer.",
    embedding: "word_embeddings",
    embedding_norm: Some("word_embeddings_layernorm"),
    attention: Sublayer {
        norm: Some("h.{b}.input_layernorm"),
        input: &["h.{b}.self_attention.query_key_value"],
        output: "h.{b}.self_attention.dense",
        output_norm: None,
        after: None,
    },
    feed_forward: Sublayer {
        norm: Some("h.{b}.post_attention_layernorm"),
        input: &["h.{b}.mlp.dense_h_to_4h"],
        output: "h.{b}.mlp.dense_4h_to_h",
        output_norm: None,
        after: None,
    },
    qkv: QkvOrder::PerHead,
    final_norm: Some("ln_f"),
    ..llama::NAMES
};

/// BLOOM.
pub static BLOOM: Arch = Arch {
    models: &[("bloom", "BloomForCausalLM")],
    decoder,
    tied_by_default: true,
    ..Arch::HUGGING_FACE_ONLY
};

fn decoder(settings: &Settings) -> Result<Config> {
    settings.refuse("apply_residual_connection_post_layernorm")?;
    let hidden = settings.size(&["hidden_size", "n_embed"])?;
    let heads = settings.size(&["n_head", "num_attention_heads"])?;
    let positions = Some(Positions::Alibi);
    let defaults = Defaults { positions, shape: Some([hidden, heads]), ..Defaults::default() };
    Ok(Config {
        names: NAMES,
        context: None,
        norm: settings.layer_norm("layer_norm_epsilon", 1e-5)?,
        activation: Activation::GeluTanh,
        gated: false,
        ..llama::with(settings, defaults)?
    })
}
