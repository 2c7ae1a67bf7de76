//! `llmc bench MODEL`: how fast a model runs here. `llmc bench kernels` is `kernels`'.

mod kernels;

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use super::engine_args;
use super::numbers::{COUNT, TOKENS, number};
use crate::error::Result;
use crate::job::{Bench, BenchRecord, Speed};

/// Measure how fast a model runs here: prefill, decode, batches, memory
///
/// Each figure is the median of several runs, with the slowest and the fastest. Decode is limited by how fast the weights can
/// be read, so its bytes per second stand beside the most that this machine was seen to read, of as many bytes.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  llmc bench model-w4a16
  llmc bench model-q4_0.gguf --prefill 512 --batch 1,8 --threads 4 --json"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The model: .safetensors, a folder, .gguf, or a hub id
    #[arg(required = true)]
    model: Option<String>,
    /// Prompt lengths to prefill
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "128,512", value_parser = number(0..=TOKENS))]
    prefill: Vec<usize>,
    /// Tokens to decode, after a prompt of 16
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = number(0..=TOKENS))]
    decode: usize,
    /// Sequences that are decoded together
    #[arg(long, value_delimiter = ',', value_name = "SEQUENCES", default_value = "1,8", value_parser = number(0..=COUNT))]
    batch: Vec<usize>,
    /// Runs of each test, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number(0..=COUNT))]
    runs: usize,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    Kernels(kernels::Arguments),
}

/// Runs the tests and prints the table.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    if let Some(Command::Kernels(arguments)) = &arguments.command {
        return kernels::run(arguments, context);
    }
    let job = Bench {
        model: arguments.model.clone().unwrap_or_default(),
        prefill: arguments.prefill.clone(),
        decode: arguments.decode,
        batch: arguments.batch.clone(),
        runs: arguments.runs,
        engine: arguments.engine.engine(),
    };
    let record = job.run(context)?;
    context.print(|| text(&record), || json!(record))
}

fn text(record: &BenchRecord) -> String {
    let mut text =
        format!("{:<22}{:>10}  {:<19}{}\n", "test", "tokens/s", "  slowest–fastest", "weights read");
    record.tests.iter().for_each(|speed| text += &line(speed, record.read_bytes_per_second));
    let peak = record.peak_memory_bytes;
    let peak = peak.map_or("unknown".into(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
    let weights = record.weight_bytes as f64 / 1e6;
    text + &format!(
        "\nloaded in {:.2} s; weights {weights:.1} MB, peak memory {peak}; {} threads\n{}",
        record.load_seconds,
        record.threads,
        in_cache(record.cache_bytes)
    )
}

/// The note on a model that a cache holds.
fn in_cache(cache: Option<u64>) -> String {
    let note = |bytes: u64| {
        let size = bytes as f64 / 1e6;
        format!("the CPU's cache of {size:.0} MB holds all weights: a larger model is slower for its size\n")
    };
    cache.map_or(String::new(), note)
}

/// `decode  98.1  97.0–99.2  12.3 GB/s, 80 % of 15.4`.
fn line(speed: &Speed, bandwidth: Option<f64>) -> String {
    let read = speed.weight_bytes_per_second.map_or(String::new(), |rate| {
        let share = |most: f64| format!(", {:.0} % of {:.1}", 100.0 * rate / most, most / 1e9);
        format!("{:.1} GB/s{}", rate / 1e9, bandwidth.map_or(String::new(), share))
    });
    let spread = format!("{:.1}–{:.1}", speed.slowest, speed.fastest);
    let line = format!("{:<22}{:>10.1}    {spread:<17}{read}", speed.test, speed.tokens_per_second);
    format!("{}\n", line.trim_end())
}
