//! BLOOM: ALiBi, a norm on the embeddings, q/k/v fused head by head.

use super::llama::{ATTENTION, FRAME, HUGGING_FACE_ONLY, KEYS, LAYER};
use super::parts::*;

fn refuse(settings: &Settings, _: &mut Model) -> Result<()> {
    settings.refuse("apply_residual_connection_post_layernorm")
}

/// BLOOM.
pub(crate) static BLOOM: Arch = Arch {
    models: &[("bloom", "BloomForCausalLM")],
    outline: Outline {
        frame: Frame {
            base: "transformer.",
            norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false },
            embedding: EmbeddingTables {
                tokens: "word_embeddings",
                norm: Some("word_embeddings_layernorm"),
                ..FRAME.embedding
            },
            final_norm: Some("ln_f"),
            tied: true,
            ..FRAME
        },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                input: Projections::PerHead("h.{b}.self_attention.query_key_value"),
                output: "h.{b}.self_attention.dense",
                rotary: None,
                alibi: true,
                ..ATTENTION
            }),
            feed_forward: FeedForward::Dense(Dense {
                up: "h.{b}.mlp.dense_h_to_4h",
                down: "h.{b}.mlp.dense_4h_to_h",
                activation: Activation::GeluTanh,
            }),
            norms: Norms {
                mixer: SublayerNorms::before("h.{b}.input_layernorm"),
                feed_forward: SublayerNorms::before("h.{b}.post_attention_layernorm"),
            },
            ..LAYER
        },
        rotation: None,
        keys: SettingKeys {
            hidden: &["hidden_size", "n_embed"],
            context: &[],
            heads: &["n_head", "num_attention_heads"],
            head_dim: &[],
            feed_forward: &[],
            activation: &[],
            epsilon: &["layer_norm_epsilon"],
            ..KEYS
        },
    },
    adjust: refuse,
    ..HUGGING_FACE_ONLY
};
