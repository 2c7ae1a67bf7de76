//! BLOOM: ALiBi, a norm on the embeddings, q/k/v fused head by head.

use super::Arch;
use super::config::{Config, Names, Positions, QkNorm, QkvOrder, Sublayer};
use super::llama;
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
    Ok(Config {
        names: NAMES,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        context: None,
        norm: settings.layer_norm("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Alibi,
        embedding_scale: None,
        attention_scale: ((hidden / heads) as f32).powf(-0.5),
        scale_by_block: false,
        qkv_clip: None,
        attention_cap: None,
        qk_norm: QkNorm::Head,
        causal: true,
        activation: Activation::GeluTanh,
        gated: false,
        parallel: false,
        experts: None,
        logit_cap: None,
        tied: true,
        layers: settings.layers(None, |_| false)?,
    })
}
