//! `llmc eval perplexity`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{base_args, report};
use crate::cli::context::Context;
use crate::cli::engine_args;
use crate::cli::numbers::{COUNT, LIMIT, TOKENS, number};
use crate::error::{Error, Result};
use crate::eval::windows::Protocol;
use crate::job::Perplexity;

/// Perplexity over a text, and KL divergence from a base
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval perplexity org/name --data wiki.test.txt --chunks 24
  llmc eval perplexity model-w4a16 --data wiki.test.txt --against org/name --json")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// UTF-8 text, .jsonl, .csv or .parquet with a column `text`, or a dataset in the hub's cache (org/name:config/split)
    #[arg(long, value_name = "FILE|DATASET")]
    data: String,
    /// Rule for windows and scored tokens
    #[arg(long, value_enum, value_name = "NAME", default_value = "chunks")]
    protocol: Name,
    /// Tokens of a chunk or window [default: 512 for chunks, 2048 for hf]
    #[arg(long, value_name = "N", value_parser = number(0..=TOKENS))]
    ctx: Option<usize>,
    /// Tokens between the starts of two windows of `hf` [default: --ctx]
    #[arg(long, value_name = "N", value_parser = number(0..=TOKENS))]
    stride: Option<usize>,
    /// Score the first N chunks or windows only
    #[arg(long, value_name = "N", value_parser = number(0..=LIMIT))]
    chunks: Option<usize>,
    /// Chunks that are run together [default: as many as 2048 tokens hold]
    #[arg(long, value_name = "N", value_parser = number(0..=COUNT))]
    batch: Option<usize>,
    /// Write what each position scored: nll, token, position; beside a base also kld, delta_p, same_top
    #[arg(long, value_name = "FILE.safetensors")]
    per_position: Option<PathBuf>,
    #[command(flatten)]
    engine: engine_args::Arguments,
    #[command(flatten)]
    base: base_args::Arguments,
}

/// The protocols by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// As llama-perplexity: separate chunks, of which the second half is scored
    Chunks,
    /// As transformers' guide: windows, every token scored once
    Hf,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let job = Perplexity {
        model: arguments.model.clone(),
        data: arguments.data.clone(),
        protocol: arguments.protocol()?,
        windows: arguments.chunks,
        batch: arguments.batch,
        per_position: arguments.per_position.clone(),
        base: arguments.base.base(),
        engine: arguments.engine.engine(),
    };
    let record = job.run(context)?;
    context.print(|| report::text(&record), || json!(record))
}

impl Arguments {
    fn protocol(&self) -> Result<Protocol> {
        match (self.protocol, self.stride) {
            (Name::Chunks, None) => Ok(Protocol::Chunks { context: self.ctx.unwrap_or(512) }),
            (Name::Chunks, Some(_)) => {
                Err(Error::usage("chunks have no --stride: they do not overlap", "--protocol hf has one"))
            }
            (Name::Hf, stride) => {
                let context = self.ctx.unwrap_or(2048);
                Ok(Protocol::Strided { context, stride: stride.unwrap_or(context) })
            }
        }
    }
}
