//! `llmc quantize`.

use clap::Args;

use super::context::Context;
use super::output_args::OutputArguments;
use super::quantization;
use super::recipe_args::{RecipeArguments, catalogue};
use crate::error::Result;

const EXAMPLES: &str = "Examples:
  llmc quantize --bits 4 model.safetensors
  llmc quantize --bits 4 models/qwen --data corpus.jsonl --format gptq -o qwen-gptq";

/// Quantize a checkpoint, with calibration text or without, and write it for an engine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = catalogue(EXAMPLES))]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Quantizes.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let calibration = &arguments.recipe.knowledge.calibration;
    quantization::run(
        &arguments.model,
        &arguments.recipe.recipe(arguments.output.is_gguf())?,
        &arguments.output,
        calibration,
        context,
    )
}
