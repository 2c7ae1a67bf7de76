//! GPT-2: learned positions, LayerNorm, linear weights stored [in, out] (Conv1D), fused q/k/v.

use super::Arch;
use super::config::{Config, Names, Positions, QkvOrder, Sublayer};
use super::llama::{self, Defaults};
use super::settings::Settings;
use crate::backend::Activation;
use crate::error::Result;

const NAMES: Names = Names {
    base: "transformer.",
    embedding: "wte",
    positions: Some("wpe"),
    attention: Sublayer {
        norm: Some("h.{b}.ln_1"),
        input: &["h.{b}.attn.c_attn"],
        output: "h.{b}.attn.c_proj",
        output_norm: None,
        after: None,
    },
    feed_forward: Sublayer {
        norm: Some("h.{b}.ln_2"),
        input: &["h.{b}.mlp.c_fc"],
        output: "h.{b}.mlp.c_proj",
        output_norm: None,
        after: None,
    },
    qkv: QkvOrder::Stacked,
    transposed: true,
    final_norm: Some("ln_f"),
    ..llama::NAMES
};

/// GPT-2 and what shares its graph.
pub static GPT2: Arch = Arch {
    models: &[("gpt2", "GPT2LMHeadModel")],
    decoder,
    tied_by_default: true,
    ..Arch::HUGGING_FACE_ONLY
};

fn decoder(settings: &Settings) -> Result<Config> {
    let (hidden, heads) = (settings.size(&["n_embd", "hidden_size"])?, settings.size(&["n_head"])?);
    let positions = Some(Positions::Learned { offset: 0 });
    let config =
        llama::with(settings, Defaults { positions, shape: Some([hidden, heads]), ..Defaults::default() })?;
    let scaled = settings.flag("scale_attn_weights", true)?;
    Ok(Config {
        names: NAMES,
        context: settings.optional(&["n_positions", "n_ctx"])?,
        norm: settings.layer_norm("layer_norm_epsilon", 1e-5)?,
        attention_scale: if scaled { config.attention_scale } else { 1.0 },
        scale_by_block: settings.flag("scale_attn_by_inverse_layer_idx", false)?,
        activation: settings.activation(&["activation_function"], Activation::GeluTanh)?,
        gated: false,
        ..config
    })
}
