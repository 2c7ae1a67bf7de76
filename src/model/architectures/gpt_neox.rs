//! GPT-NeoX and Pythia: attention and feed-forward in parallel, a part of each head rotated, q/k/v fused head by head.

use super::llama::{ATTENTION, FRAME, HUGGING_FACE_ONLY, KEYS, LAYER, ROTATION};
use super::parts::*;

fn residual(settings: &Settings, model: &mut Model) -> Result<()> {
    let parallel = settings.flag("use_parallel_residual", true)?;
    model.layers.iter_mut().for_each(|layer| layer.parallel = parallel);
    Ok(())
}

/// GPT-NeoX, Pythia.
pub(crate) static GPT_NEOX: Arch = Arch {
    models: &[("gpt_neox", "GPTNeoXForCausalLM")],
    outline: Outline {
        frame: Frame {
            base: "gpt_neox.",
            norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false },
            embedding: EmbeddingTables { tokens: "embed_in", ..FRAME.embedding },
            final_norm: Some("final_layer_norm"),
            head: Some("embed_out"),
            ..FRAME
        },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                input: Projections::PerHead("layers.{b}.attention.query_key_value"),
                output: "layers.{b}.attention.dense",
                ..ATTENTION
            }),
            feed_forward: FeedForward::Dense(Dense {
                up: "layers.{b}.mlp.dense_h_to_4h",
                down: "layers.{b}.mlp.dense_4h_to_h",
                activation: Activation::Gelu,
            }),
            ..LAYER
        },
        rotation: Some(RotationDefaults { partial: 0.25, ..ROTATION }),
        keys: SettingKeys { kv_heads: &[], head_dim: &[], epsilon: &["layer_norm_eps"], ..KEYS },
    },
    adjust: residual,
    ..HUGGING_FACE_ONLY
};
