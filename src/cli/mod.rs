//! The command line: one file per subcommand, its arguments and its `run`. Results go to stdout, all else to stderr.

mod bench;
mod cache;
mod calibrate;
pub(crate) mod calibration_args;
mod chat;
mod collapse;
mod completions;
mod context;
mod convert;
mod engine_args;
mod eval;
mod faults;
mod generate;
mod inspect;
mod next_steps;
mod numbers;
mod output_args;
mod plan;
mod plan_report;
mod progress;
mod prune;
mod quantization;
mod quantize;
mod recipe_args;
mod recipes;
mod run;
mod sampling_args;
mod schemes;
mod suggested;
mod table;
mod terminal;
mod verify;
mod version;

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use context::{Context, Global};

/// The compression toolchain for language models.
///
/// Loads a checkpoint (.safetensors, a folder, .gguf, or a hub id), quantizes it, writes what vLLM, transformers,
/// llama.cpp and candle load unchanged, and verifies what it wrote.
#[derive(Debug, Parser)]
#[command(
    name = "llmc",
    version,
    max_term_width = 100,
    after_help = "Examples:
  llmc quantize --bits 4 model.safetensors
  llmc quantize org/name --scheme q4_k -o name-q4_k.gguf"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Arguments),
    Plan(plan::Arguments),
    Quantize(quantize::Arguments),
    Prune(prune::Arguments),
    Convert(convert::Arguments),
    Run(run::Arguments),
    Calibrate(calibrate::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Generate(generate::Arguments),
    Chat(chat::Arguments),
    Eval(eval::Arguments),
    Schemes(schemes::Arguments),
    Recipes(recipes::Arguments),
    Cache(cache::Arguments),
    Completions(completions::Arguments),
}

/// The command as clap knows it: for completions and the tests of `--help`.
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses, runs, prints the error chain and its hint.
pub fn main() -> ExitCode {
    crate::heap::keep_freed();
    match Cli::try_parse() {
        Ok(cli) => end(run(cli)),
        Err(message) => show(&message),
    }
}

/// Prints what clap has to say: help on stdout, mistakes on stderr. Help that cannot be written is a failure, unless nobody
/// reads it any more.
fn show(message: &clap::Error) -> ExitCode {
    if let Some(text) = version::verbose(message) {
        terminal::say(&text);
        return ExitCode::SUCCESS;
    }
    match message.print() {
        Err(e) if !message.use_stderr() && e.kind() != ErrorKind::BrokenPipe => {
            end(Err(Error::io("stdout", e)))
        }
        _ => ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(1)),
    }
}

fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if matches!(error, Error::Interrupted { .. }) {
                context::answer();
            }
            terminal::tell(&format!("error: {error}"));
            if let Some(hint) = error.hint() {
                terminal::tell(&format!("hint: {hint}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    start_logging(cli.global.verbose);
    faults::catch()?;
    start_threads(cli.global.threads)?;
    let context = Context::new(cli.global);
    match cli.command {
        Command::Inspect(arguments) => inspect::run(&arguments, &context),
        Command::Plan(arguments) => plan::run(&arguments, &context),
        Command::Quantize(arguments) => quantize::run(&arguments, &context),
        Command::Prune(arguments) => prune::run(&arguments, &context),
        Command::Convert(arguments) => convert::run(&arguments, &context),
        Command::Run(arguments) => run::run(&arguments, &context),
        Command::Calibrate(arguments) => calibrate::run(&arguments, &context),
        Command::Verify(arguments) => verify::run(&arguments, &context),
        Command::Bench(arguments) => bench::run(&arguments, &context),
        Command::Generate(arguments) => generate::run(&arguments, &context),
        Command::Chat(arguments) => chat::run(&arguments, &context),
        Command::Eval(arguments) => eval::run(&arguments, &context),
        Command::Schemes(arguments) => schemes::run(&arguments, &context),
        Command::Recipes(arguments) => recipes::run(&arguments, &context),
        Command::Cache(arguments) => cache::run(&arguments, &context),
        Command::Completions(arguments) => completions::run(&arguments, command(), &context),
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| terminal::Log)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .log_internal_errors(false) // a stderr that cannot be written would make it panic
        .init();
}

/// Threads for each core beyond which more only cost memory.
const MOST_THREADS: usize = 4;

fn start_threads(threads: Option<usize>) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = (cores * MOST_THREADS).max(64);
    if threads.is_some_and(|threads| threads == 0 || threads > most) {
        let what = format!("--threads must be between 1 and {most} on {cores} cores");
        return Err(Error::usage(what, "leave it out to use every core"));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build_global()
        .map_err(|e| Error::unsupported(format!("cannot start threads: {e}"), "try fewer with --threads"))
}
