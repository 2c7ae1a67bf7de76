//! `llmc eval logits`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::{Context, engine_args};
use super::{check_output, check_tokens};
use crate::engine::{LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::arrays::{Array, ArrayFile};
use crate::model::Batch;
use crate::tensor::DType;

/// Write a model's logits to a file, to compare them with another runtime's
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval logits org/name --tokens 1,2,3 -o logits.safetensors
  llmc eval logits model.gguf --text \"The capital of France\" -o logits.safetensors --activations f32

The file holds `logits` [T, vocabulary] in f32 and `tokens` [T]: row t is what the model says after tokens 0 to t.")]
pub struct Arguments {
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
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let model = arguments.engine.open(&arguments.model, context)?;
    let tokens = match &arguments.text {
        Some(text) => Tokenizer::open(model.checkpoint())?.encode(text, true)?,
        None => arguments.tokens.clone(),
    };
    check(&model, &tokens)?;
    check_output(&arguments.output, &model)?;
    write(&model, &tokens, arguments)?;
    let (output, shape) = (arguments.output.display().to_string(), [tokens.len(), model.vocabulary()]);
    context.print(
        || format!("{output}: logits [{}, {}]\n", shape[0], shape[1]),
        || json!({ "output": output, "shape": shape, "tokens": tokens }),
    )
}

fn check(model: &LanguageModel, tokens: &[u32]) -> Result<()> {
    check_tokens(model, tokens)?;
    match model.context_limit() {
        _ if tokens.is_empty() => {
            Err(Error::usage("there are no tokens", "give some: --tokens 1,2,3, or --text with some text"))
        }
        Some(limit) if tokens.len() > limit => Err(Error::usage(
            format!("{} tokens are beyond the model's limit of {limit}", tokens.len()),
            "give fewer",
        )),
        _ => Ok(()),
    }
}

fn write(model: &LanguageModel, tokens: &[u32], arguments: &Arguments) -> Result<()> {
    let arrays = [
        Array { name: "logits", dtype: DType::F32, shape: vec![tokens.len(), model.vocabulary()] },
        Array { name: "tokens", dtype: DType::U32, shape: vec![tokens.len()] },
    ];
    let mut file = ArrayFile::create(&arguments.output, &arrays, json!({ "model": arguments.model }))?;
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    model.logits(&Batch::whole(&[tokens]), None, &rows, |_, block| {
        file.write(block.iter().map(|logit| logit.to_le_bytes()))
    })?;
    file.write(tokens.iter().map(|token| token.to_le_bytes()))?;
    file.finish()
}
