//! GPT-NeoX and Pythia: attention and feed-forward in parallel, a part of each head rotated, q/k/v fused head by head.

use super::Arch;
use super::config::{Config, Names, QkvOrder, Sublayer};
use super::llama::{self, Defaults};
use super::settings::Settings;
use crate::backend::Activation;
use crate::error::Result;

const NAMES: Names = Names {
    base: "gpt_neox.",
    embedding: "embed_in",
    attention: Sublayer {
        input: &["layers.{b}.attention.query_key_value"],
        output: "layers.{b}.attention.dense",
        ..llama::NAMES.attention
    },
    feed_forward: Sublayer {
        input: &["layers.{b}.mlp.dense_h_to_4h"],
        output: "layers.{b}.mlp.dense_4h_to_h",
        ..llama::NAMES.feed_forward
    },
    qkv: QkvOrder::PerHead,
    final_norm: Some("final_layer_norm"),
    head: Some("embed_out"),
    ..llama::NAMES
};

/// GPT-NeoX, Pythia.
pub static GPT_NEOX: Arch =
    Arch { models: &[("gpt_neox", "GPTNeoXForCausalLM")], decoder, ..Arch::HUGGING_FACE_ONLY };

fn decoder(settings: &Settings) -> Result<Config> {
    let config = llama::with(settings, Defaults { partial: 0.25, ..Defaults::default() })?;
    Ok(Config {
        names: NAMES,
        kv_heads: config.heads,
        norm: settings.layer_norm("layer_norm_eps", 1e-5)?,
        activation: settings.activation(&["hidden_act"], Activation::Gelu)?,
        gated: false,
        parallel: settings.flag("use_parallel_residual", true)?,
        ..config
    })
}
