//! The surroundings of every command: its common flags, the terminal, and signals.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::plan_report::PlanReport;
use super::progress::{self, Display};
use super::{faults, terminal};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::hub::Hub;
use crate::job::{Host, Notice, Phase};
use crate::pipeline::Event;

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Global {
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bars, no notes: results, warnings and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log what is done to stderr (-vv for more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Threads to work with [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

/// The common flags, and the flag that a signal sets.
pub(crate) struct Context {
    global: Global,
    interrupted: Arc<AtomicBool>,
}

impl Context {
    /// A context of these flags, not interrupted.
    pub(crate) fn new(global: Global) -> Context {
        Context { global, interrupted: Arc::default() }
    }

    /// True if notes and progress bars are not wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.global.quiet
    }

    /// True if results are printed as JSON.
    pub(crate) fn prints_json(&self) -> bool {
        self.global.json
    }

    /// True if the user has asked to stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Forgets that the user has asked to stop.
    pub(crate) fn resume(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
    }

    /// Prints a line about the work in hand, on a terminal.
    pub(crate) fn say(&self, line: &str) {
        if !self.global.quiet && std::io::stderr().is_terminal() {
            terminal::tell(line);
        }
    }

    /// Prints a result: text for people, JSON with --json. A closed pipe ends the output quietly.
    pub(crate) fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<()> {
        let content = match self.global.json {
            true => terminal::escaped_json(&format!("{:#}\n", json())),
            false => terminal::escaped(&text()).into_owned(),
        };
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(content.as_bytes()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", e)),
            _ => Ok(()),
        }
    }
}

impl Host for Context {
    fn interrupted(&self) -> &AtomicBool {
        &self.interrupted
    }

    /// Signals are caught from here on. Before, they end a download, which the hub client resumes.
    fn open(&self, model: &str) -> Result<Checkpoint> {
        let hub = Hub { progress: !self.global.quiet, ..Hub::from_env() };
        let checkpoint = Checkpoint::open_with(model, &hub)?;
        catch_signals(&self.interrupted, self.global.quiet)?;
        tracing::info!(path = %checkpoint.path.display(), tensors = checkpoint.tensors.len(), "opened");
        Ok(checkpoint)
    }

    fn bar(&self, phase: Phase, total: u64) -> ProgressBar {
        let display = match (std::io::stderr().is_terminal(), self.global.json) {
            _ if self.global.quiet => Display::Nothing,
            (true, _) => Display::Bar,
            (false, false) => Display::Lines,
            (false, true) => Display::Nothing, // the events are lines of JSON
        };
        progress::start(phase, total, display)
    }

    fn notify(&self, notice: &Notice) {
        match notice {
            Notice::Warning(text) => terminal::tell(&format!("warning: {text}")),
            Notice::Note(text) if !self.global.quiet => terminal::tell(&format!("note: {text}")),
            Notice::Block(event) if self.global.json && !self.global.quiet => print_event(event),
            Notice::Refused(plan, checkpoint) => {
                if let Ok(report) = PlanReport::new(plan, checkpoint) {
                    let _ = self.print(|| report.text(false), || report.json()); // the refusal follows in any case
                }
            }
            Notice::Note(_) | Notice::Block(_) => {}
        }
    }
}

/// Prints an event of the block loop to stderr, as a line of JSON.
fn print_event(event: &Event) {
    match event {
        Event::Linear { block, linear } => {
            let value = json!({ "event": "linear", "block": block, "name": linear.name,
                                "scheme": linear.scheme, "relative_error": linear.relative_error });
            terminal::tell_json(&value);
        }
        Event::Block { index, of } => {
            terminal::tell_json(&json!({ "event": "block", "block": index, "of": of }));
        }
        Event::Start { .. } => {}
    }
}

/// The first SIGINT or SIGTERM asks the work to stop, and is answered; a second one ends the process.
fn catch_signals(flag: &Arc<AtomicBool>, quiet: bool) -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let failed = |e| Error::io("signal handler", e);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag)).map_err(failed)?;
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(failed)?;
    }
    if quiet {
        stop_in_silence();
        return Ok(());
    }
    faults::on_stop(answer)
}

/// Done when the user's wish to stop has been answered, or needs no answer.
static ANSWERED: Once = Once::new();

/// Lets a stop go without an answer, where it takes no time.
pub(crate) fn stop_in_silence() {
    ANSWERED.call_once(|| ());
}

/// Says once that the work stops. The bar goes, so that a second signal leaves a clean line.
pub(crate) fn answer() {
    ANSWERED.call_once(|| {
        let phase = terminal::current().map(|(bar, phase)| {
            bar.finish_and_clear();
            phase
        });
        terminal::tell(&format!("stopping; Ctrl-C again ends now{}", phase.map_or("", what_is_kept)));
    });
}

/// The end of the answer to Ctrl-C: what the same command will find.
fn what_is_kept(phase: Phase) -> &'static str {
    match phase {
        Phase::Blocks | Phase::Measuring => "; the same command goes on from the last finished block",
        Phase::Writing => "; the same command goes on from the last finished tensor",
        Phase::OwnText => "; the text so far is kept, and the same command goes on from there",
        Phase::Verifying | Phase::Scoring | Phase::Embedding | Phase::Checking | Phase::Answering => {
            "; the same command starts from the beginning"
        }
    }
}
