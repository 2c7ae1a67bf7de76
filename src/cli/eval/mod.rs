//! `llmc eval`: what a model is worth.

mod base_args;
mod embeddings;
mod logits;
mod perplexity;
mod report;
mod tasks;

use std::path::Path;

use clap::{Args, Subcommand};

use super::Context;
use crate::engine::LanguageModel;
use crate::error::{Error, Result};

/// Measure a model: perplexity, divergence from a base, logits, benchmarks
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval perplexity org/name --data wiki.test.txt --chunks 24
  llmc eval perplexity model-w4a16 --data wiki.test.txt --against org/name")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Perplexity(perplexity::Arguments),
    Logits(logits::Arguments),
    Embeddings(embeddings::Arguments),
    Tasks(tasks::Arguments),
}

/// Measures.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    match &arguments.command {
        Command::Perplexity(arguments) => perplexity::run(arguments, context),
        Command::Logits(arguments) => logits::run(arguments, context),
        Command::Embeddings(arguments) => embeddings::run(arguments, context),
        Command::Tasks(arguments) => tasks::run(arguments, context),
    }
}

/// Refuses to write over the weights of the model that is measured.
fn check_output(output: &Path, model: &LanguageModel) -> Result<()> {
    let place = |path: &Path| path.canonicalize().ok();
    let is_input = place(output).is_some_and(|output| {
        model.checkpoint().files.iter().any(|file| place(file.path()).is_some_and(|file| file == output))
    });
    match is_input {
        true => Err(Error::usage(
            format!("{}: holds the weights of the model that is measured", output.display()),
            "write to another file",
        )),
        false => Ok(()),
    }
}

/// Refuses token ids that a model does not have.
fn check_tokens(model: &LanguageModel, tokens: &[u32]) -> Result<()> {
    let vocabulary = model.vocabulary();
    match tokens.iter().find(|token| **token as usize >= vocabulary) {
        None => Ok(()),
        Some(token) => Err(Error::usage(
            format!("there is no token {token}: the model's vocabulary ends at {vocabulary}"),
            "token ids are those of this model's tokenizer; --text makes them of a text",
        )),
    }
}
