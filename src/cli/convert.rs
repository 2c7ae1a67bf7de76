//! `llmc convert`.

use clap::Args;

use super::calibration_args::CalibrationArguments;
use super::context::Context;
use super::output_args::OutputArguments;
use super::quantization;
use super::recipe_args::StorageArguments;
use crate::error::{Error, Result};
use crate::export;
use crate::names::unknown;
use crate::recipe::Recipe;
use crate::similar::same;

/// Convert between formats and dtypes, dequantizing what is quantized
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc convert model.gguf -o model/
  llmc convert model/ --format gguf --dtype bf16 -o model-bf16.gguf")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// dense (safetensors) or gguf [default: gguf where the output ends in .gguf, else dense]
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// f32, f16 or bf16 [default: as it is; bf16 for what was quantized]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    #[command(flatten)]
    storage: StorageArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The formats without codes.
const FORMATS: [&str; 2] = ["dense", "gguf"];

/// The format for weights without codes: as named, or by the name of the output.
pub(super) fn dense_format(name: Option<&str>, is_gguf: bool) -> Result<&'static str> {
    let Some(name) = name else { return Ok(if is_gguf { "gguf" } else { "dense" }) };
    if export::FORMATS.iter().any(|format| same(format.name(), name) && !FORMATS.contains(&format.name())) {
        return Err(Error::usage(
            format!("{name:?} is a format for codes, and here are none"),
            "this command writes dense or gguf; `llmc quantize` writes the formats that hold codes",
        ));
    }
    FORMATS.into_iter().find(|format| same(format, name)).ok_or_else(|| unknown("format", name, &FORMATS))
}

/// Converts.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let format = dense_format(arguments.format.as_deref(), arguments.output.is_gguf())?;
    let recipe = Recipe {
        format: Some(format.to_owned()),
        dtype: arguments.dtype.clone(),
        max_shard_size: arguments.storage.max_shard_size,
        allow_nonfinite: arguments.storage.allow_nonfinite,
        ..Recipe::default()
    };
    quantization::run(&arguments.model, &recipe, &arguments.output, &CalibrationArguments::default(), context)
}
