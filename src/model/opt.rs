//! OPT: learned positions from row 2 on, LayerNorm before each sub-layer, or after it (OPT-350m, whose embeddings are
//! narrower than the model too).

use super::Arch;
use super::config::{Config, Names, NormKind, Positions, Sublayer};
use super::llama::{self, Defaults};
use super::settings::Settings;
use crate::backend::Activation;
use crate::error::Result;

const NAMES: Names = Names {
    base: "model.decoder.",
    positions: Some("embed_positions"),
    attention: Sublayer {
        norm: Some("layers.{b}.self_attn_layer_norm"),
        output: "layers.{b}.self_attn.out_proj",
        ..llama::NAMES.attention
    },
    feed_forward: Sublayer {
        norm: Some("layers.{b}.final_layer_norm"),
        input: &["layers.{b}.fc1"],
        output: "layers.{b}.fc2",
        ..llama::NAMES.feed_forward
    },
    final_norm: Some("final_layer_norm"),
    ..llama::NAMES
};

/// OPT.
pub static OPT: Arch =
    Arch { models: &[("opt", "OPTForCausalLM")], decoder, tied_by_default: true, ..Arch::HUGGING_FACE_ONLY };

fn decoder(settings: &Settings) -> Result<Config> {
    let positions = Some(Positions::Learned { offset: 2 });
    let config = llama::with(settings, Defaults { positions, ..Defaults::default() })?;
    let before = settings.flag("do_layer_norm_before", true)?;
    let narrow = settings.optional(&["word_embed_proj_dim"])?.is_some_and(|width| width != config.hidden);
    let last = before && !settings.flag("_remove_final_layer_norm", false)?;
    let placed = |sublayer: Sublayer| if before { sublayer } else { sublayer.norm_after() };
    Ok(Config {
        names: Names {
            attention: placed(NAMES.attention),
            feed_forward: placed(NAMES.feed_forward),
            projections: narrow.then_some(["project_in", "project_out"]),
            final_norm: NAMES.final_norm.filter(|_| last),
            ..NAMES
        },
        norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false },
        activation: settings.activation(&["activation_function"], Activation::Relu)?,
        gated: false,
        ..config
    })
}
