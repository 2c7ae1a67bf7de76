//! The command line: one file per subcommand, its arguments and its `run`. Results go to stdout, all else to stderr.

mod bench;
mod budget;
mod calibrate;
pub mod calibration_args;
mod completions;
mod convert;
mod coverage;
mod engine_args;
mod eval;
mod generate;
mod inspect;
mod job;
mod plan;
mod quantize;
mod recipe_args;
mod run;
mod verify;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::hub::Hub;

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
pub struct Cli {
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
    Convert(convert::Arguments),
    Run(run::Arguments),
    Calibrate(calibrate::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Generate(generate::Arguments),
    Eval(eval::Arguments),
    Completions(completions::Arguments),
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
    /// No progress bars, no notes: results, warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log what is done to stderr (-vv for more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Threads to work with [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
}

/// The command as clap knows it: for completions and the tests of `--help`.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses, runs, prints the error chain and its hint.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    start_logging(cli.global.verbose);
    start_threads(cli.global.threads)?;
    let context = Context { global: cli.global, interrupted: Arc::default() };
    match cli.command {
        Command::Inspect(arguments) => inspect::run(&arguments, &context),
        Command::Plan(arguments) => plan::run(&arguments, &context),
        Command::Quantize(arguments) => quantize::run(&arguments, &context),
        Command::Convert(arguments) => convert::run(&arguments, &context),
        Command::Run(arguments) => run::run(&arguments, &context),
        Command::Calibrate(arguments) => calibrate::run(&arguments, &context),
        Command::Verify(arguments) => verify::run(&arguments, &context),
        Command::Bench(arguments) => bench::run(&arguments, &context),
        Command::Generate(arguments) => generate::run(&arguments, &context),
        Command::Eval(arguments) => eval::run(&arguments, &context),
        Command::Completions(arguments) => completions::run(&arguments, &context),
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
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}

fn start_threads(threads: Option<usize>) -> Result<()> {
    if threads == Some(0) {
        return Err(Error::usage("--threads must be at least 1", "leave it out to use every core"));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build_global()
        .map_err(|e| Error::unsupported(format!("cannot start threads: {e}"), "try fewer with --threads"))
}

/// The first SIGINT or SIGTERM asks the work to stop; a second one ends the process.
fn catch_signals(flag: &Arc<AtomicBool>) -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    [SIGINT, SIGTERM].into_iter().try_for_each(|signal| {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map(|_| ())
            .map_err(|e| Error::io("signal handler", e))
    })
}

/// What every command is given beside its arguments.
struct Context {
    global: Global,
    interrupted: Arc<AtomicBool>,
}

impl Context {
    /// Opens a model. Signals are caught from here on: a download just ends, and the hub client resumes it.
    fn open(&self, model: &str) -> Result<Checkpoint> {
        let hub = Hub { progress: !self.global.quiet, ..Hub::from_env() };
        let checkpoint = Checkpoint::open_with(model, &hub)?;
        catch_signals(&self.interrupted)?;
        tracing::info!(path = %checkpoint.path.display(), tensors = checkpoint.tensors.len(), "opened");
        Ok(checkpoint)
    }

    /// Ends the command where the user has asked for it.
    fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            Err(Error::Interrupted { hint: "nothing was written".into() })
        } else {
            Ok(())
        }
    }

    /// A line about what is being done, for people who watch.
    fn say(&self, line: &str) {
        if !self.global.quiet && std::io::stderr().is_terminal() {
            eprintln!("{line}");
        }
    }

    /// A progress bar over bytes.
    fn progress(&self, bytes: u64, what: &'static str) -> ProgressBar {
        self.bar(bytes, "{msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}", what)
    }

    /// A progress bar over anything; silent with `--quiet` and away from a terminal.
    fn bar(&self, len: u64, template: &str, what: &'static str) -> ProgressBar {
        let hidden = self.global.quiet || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::with_draw_target(Some(len), target).with_message(what);
        style.map_or(bar.clone(), |style| bar.with_style(style.progress_chars("=> ")))
    }

    /// Prints a result: text for people, JSON where asked. A closed pipe ends the output quietly.
    fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<()> {
        let content = if self.global.json { format!("{:#}\n", json()) } else { text() };
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(content.as_bytes()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", e)),
            _ => Ok(()),
        }
    }
}
