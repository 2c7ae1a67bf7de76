//! `llmc eval`: what a model is worth.

mod base_args;
mod embeddings;
mod logits;
mod perplexity;
mod report;
mod tasks;

use clap::{Args, Subcommand};

use super::context::Context;
use crate::error::Result;

/// Measure a model: perplexity, divergence from a base, logits, benchmarks
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval perplexity org/name --data wiki.test.txt --chunks 24
  llmc eval perplexity model-w4a16 --data wiki.test.txt --against org/name")]
pub(crate) struct Arguments {
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
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    match &arguments.command {
        Command::Perplexity(arguments) => perplexity::run(arguments, context),
        Command::Logits(arguments) => logits::run(arguments, context),
        Command::Embeddings(arguments) => embeddings::run(arguments, context),
        Command::Tasks(arguments) => tasks::run(arguments, context),
    }
}
