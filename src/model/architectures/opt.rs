//! OPT: learned positions from row 2 on, LayerNorm before mixer and feed-forward network, or after them (OPT-350m, whose
//! embeddings are narrower than the model too).

use super::llama::{ATTENTION, FRAME, HUGGING_FACE_ONLY, KEYS, LAYER};
use super::parts::*;

const MIXER_NORM: &str = "layers.{b}.self_attn_layer_norm";
const FEED_FORWARD_NORM: &str = "layers.{b}.final_layer_norm";

fn options(settings: &Settings, model: &mut Model) -> Result<()> {
    let before = settings.flag("do_layer_norm_before", true)?;
    if !before {
        let (mixer, feed_forward) =
            (SublayerNorms::after(MIXER_NORM), SublayerNorms::after(FEED_FORWARD_NORM));
        model.layers.iter_mut().for_each(|layer| layer.norms = Norms { mixer, feed_forward });
    }
    let width = settings.optional(&["word_embed_proj_dim"])?;
    let frame = &mut model.frame;
    if width.is_none_or(|width| width == model.hidden) {
        frame.embedding.projections = None;
    }
    let last = before && !settings.flag("_remove_final_layer_norm", false)?;
    frame.final_norm = frame.final_norm.filter(|_| last);
    Ok(())
}

/// OPT.
pub(crate) static OPT: Arch = Arch {
    models: &[("opt", "OPTForCausalLM")],
    outline: Outline {
        frame: Frame {
            base: "model.decoder.",
            norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false },
            embedding: EmbeddingTables {
                projections: Some(["project_in", "project_out"]),
                positions: Some(LearnedPositions { name: "embed_positions", offset: 2 }),
                ..FRAME.embedding
            },
            final_norm: Some("final_layer_norm"),
            tied: true,
            ..FRAME
        },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                output: "layers.{b}.self_attn.out_proj",
                rotary: None,
                ..ATTENTION
            }),
            feed_forward: FeedForward::Dense(Dense {
                up: "layers.{b}.fc1",
                down: "layers.{b}.fc2",
                activation: Activation::Relu,
            }),
            norms: Norms {
                mixer: SublayerNorms::before(MIXER_NORM),
                feed_forward: SublayerNorms::before(FEED_FORWARD_NORM),
            },
            ..LAYER
        },
        rotation: None,
        keys: SettingKeys {
            head_dim: &[],
            feed_forward: &["ffn_dim"],
            activation: &["activation_function"],
            epsilon: &[],
            ..KEYS
        },
    },
    adjust: options,
    ..HUGGING_FACE_ONLY
};
