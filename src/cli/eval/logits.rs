//! `llmc eval logits`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::engine_args;
use crate::error::Result;
use crate::job::{Logits, Prompt};

/// Write a model's logits to a file, to compare them with another runtime's
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval logits org/name --tokens 1,2,3 -o logits.safetensors
  llmc eval logits model.gguf --text \"The capital of France\" -o logits.safetensors --activations f32

The file holds `logits` [T, vocabulary] in f32 and `tokens` [T]: row t is what the model says after tokens 0 to t.")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// Token ids, run as they are: no BOS is added
    #[arg(long, value_name = "ID,…", value_delimiter = ',', required_unless_present = "text")]
    tokens: Vec<u32>,
    /// A text, tokenized as the model's tokenizer does: with BOS where it adds one
    #[arg(long, conflicts_with = "tokens")]
    text: Option<String>,
    /// The file to write; one that exists is replaced
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

/// Writes logits.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let prompt = match &arguments.text {
        Some(text) => Prompt::Text(text.clone()),
        None => Prompt::Tokens(arguments.tokens.clone()),
    };
    let (model, output) = (arguments.model.clone(), arguments.output.clone());
    let record = Logits { model, prompt, output, engine: arguments.engine.engine() }.run(context)?;
    let [rows, columns] = record.shape;
    context.print(|| format!("{}: logits [{rows}, {columns}]\n", record.output), || json!(record))
}
