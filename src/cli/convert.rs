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

fn convertible(name: &str) -> Result<&'static str> {
    if export::FORMATS.iter().any(|format| same(format.name(), name) && !FORMATS.contains(&format.name())) {
        return Err(Error::usage(
            format!("convert cannot write {name:?}"),
            "convert writes dense or gguf; `llmc quantize` writes the formats that hold codes",
        ));
    }
    FORMATS.into_iter().find(|format| same(format, name)).ok_or_else(|| unknown("format", name, &FORMATS))
}

/// Converts.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let format = match arguments.format.as_deref() {
        Some(name) => convertible(name)?,
        None if arguments.output.is_gguf() => "gguf",
        None => "dense",
    };
    let recipe = Recipe {
        format: Some(format.to_owned()),
        dtype: arguments.dtype.clone(),
        max_shard_size: arguments.storage.max_shard_size,
        allow_nonfinite: arguments.storage.allow_nonfinite,
        ..Recipe::default()
    };
    quantization::run(&arguments.model, &recipe, &arguments.output, &CalibrationArguments::default(), context)
}
