//! BERT and MiniLM: encoders, whose tokens see each other both ways, with norms on the residual stream.

use super::Arch;
use super::config::{Config, Names, Positions, QkvOrder, Sublayer};
use super::llama::{self, Defaults};
use super::settings::Settings;
use crate::backend::Activation;
use crate::error::{Error, Result};

const NAMES: Names = Names {
    base: "bert.",
    embedding: "embeddings.word_embeddings",
    positions: Some("embeddings.position_embeddings"),
    token_types: Some("embeddings.token_type_embeddings"),
    embedding_norm: Some("embeddings.LayerNorm"),
    attention: Sublayer {
        norm: None,
        input: &[
            "encoder.layer.{b}.attention.self.query",
            "encoder.layer.{b}.attention.self.key",
            "encoder.layer.{b}.attention.self.value",
        ],
        output: "encoder.layer.{b}.attention.output.dense",
        output_norm: None,
        after: Some("encoder.layer.{b}.attention.output.LayerNorm"),
    },
    feed_forward: Sublayer {
        norm: None,
        input: &["encoder.layer.{b}.intermediate.dense"],
        output: "encoder.layer.{b}.output.dense",
        output_norm: None,
        after: Some("encoder.layer.{b}.output.LayerNorm"),
    },
    qkv: QkvOrder::Stacked,
    final_norm: None,
    head: None,
    ..llama::NAMES
};

/// BERT, MiniLM.
pub static BERT: Arch = Arch { models: &[("bert", "BertModel")], decoder, ..Arch::HUGGING_FACE_ONLY };

fn decoder(settings: &Settings) -> Result<Config> {
    let kind = settings.text("position_embedding_type").unwrap_or("absolute");
    if kind != "absolute" {
        let what = format!("config.json: position_embedding_type {kind}");
        return Err(Error::unsupported(what, "llmc runs encoders with absolute positions"));
    }
    let positions = Some(Positions::Learned { offset: 0 });
    Ok(Config {
        names: NAMES,
        norm: settings.layer_norm("layer_norm_eps", 1e-12)?,
        causal: false,
        activation: settings.activation(&["hidden_act"], Activation::Gelu)?,
        gated: false,
        ..llama::with(settings, Defaults { positions, ..Defaults::default() })?
    })
}
