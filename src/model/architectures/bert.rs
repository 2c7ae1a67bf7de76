//! BERT and MiniLM: encoders, whose tokens see each other both ways, with norms on the residual stream.

use super::llama::{ATTENTION, FRAME, HUGGING_FACE_ONLY, KEYS, LAYER};
use super::parts::*;

fn absolute_positions(settings: &Settings, _: &mut Model) -> Result<()> {
    match settings.text("position_embedding_type")?.unwrap_or("absolute") {
        "absolute" => Ok(()),
        kind => {
            let what = format!("config.json: position_embedding_type {kind}");
            Err(Error::unsupported(what, "llmc runs encoders with absolute positions"))
        }
    }
}

/// BERT, MiniLM.
pub(crate) static BERT: Arch = Arch {
    models: &[("bert", "BertModel")],
    outline: Outline {
        frame: Frame {
            base: "bert.",
            norm: NormKind { centered: true, epsilon: 1e-12, plus_one: false },
            embedding: EmbeddingTables {
                tokens: "embeddings.word_embeddings",
                positions: Some(LearnedPositions { name: "embeddings.position_embeddings", offset: 0 }),
                types: Some("embeddings.token_type_embeddings"),
                norm: Some("embeddings.LayerNorm"),
                ..FRAME.embedding
            },
            final_norm: None,
            head: None,
            ..FRAME
        },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                input: Projections::Separate([
                    "encoder.layer.{b}.attention.self.query",
                    "encoder.layer.{b}.attention.self.key",
                    "encoder.layer.{b}.attention.self.value",
                ]),
                output: "encoder.layer.{b}.attention.output.dense",
                rotary: None,
                causal: false,
                ..ATTENTION
            }),
            feed_forward: FeedForward::Dense(Dense {
                up: "encoder.layer.{b}.intermediate.dense",
                down: "encoder.layer.{b}.output.dense",
                activation: Activation::Gelu,
            }),
            norms: Norms {
                mixer: SublayerNorms::after("encoder.layer.{b}.attention.output.LayerNorm"),
                feed_forward: SublayerNorms::after("encoder.layer.{b}.output.LayerNorm"),
            },
            ..LAYER
        },
        rotation: None,
        keys: SettingKeys { head_dim: &[], epsilon: &["layer_norm_eps"], ..KEYS },
    },
    adjust: absolute_positions,
    ..HUGGING_FACE_ONLY
};
