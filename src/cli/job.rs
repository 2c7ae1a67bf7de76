//! What `quantize` and `convert` share: open, plan, run, report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::Context;
use crate::error::Result;
use crate::export;
use crate::io::Checkpoint;
use crate::pipeline::{self, Options, Outcome, Target};
use crate::plan::{Action, Plan};
use crate::recipe::Recipe;

/// Where the output goes.
#[derive(Debug, Args)]
pub struct OutputArguments {
    /// Output folder (or .gguf file) [default: the model's name and the scheme, here]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace an output that exists, once the new one is complete
    #[arg(long)]
    overwrite: bool,
    /// Throw away what an interrupted run left instead of going on from it
    #[arg(long)]
    no_resume: bool,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
}

impl OutputArguments {
    /// Whether the named output is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.output.as_ref().is_some_and(|path| path.extension().is_some_and(|e| e == "gguf"))
    }
}

/// Opens `model`, carries `recipe` out on it, prints what was done.
pub fn run(model: &str, recipe: &Recipe, output: &OutputArguments, context: &Context) -> Result<()> {
    let start = Instant::now();
    let checkpoint = Arc::new(context.open(model)?);
    let mut plan = super::plan::make(recipe, &checkpoint, context)?;
    if output.dry_run {
        return super::plan::print(&plan, context);
    }
    let target = target(model, output, &plan);
    pipeline::check_target(&checkpoint, &target, plan.request.format.single_file(), output.overwrite)?;
    plan.metadata = pipeline::provenance(&plan, &checkpoint, &context.interrupted)?;
    let card = export::card::model_card(&plan, &command_line(), model);
    let progress = context.progress(pipeline::total_input_bytes(&plan, &checkpoint), "writing");
    let options = Options {
        resume: !output.no_resume,
        interrupted: &context.interrupted,
        progress: &progress,
        events: &|_| (),
    };
    let documents = if plan.request.format.single_file() { vec![] } else { vec![card_file(card)] };
    let targets = [Target { plan: &plan, path: &target, documents: &documents }];
    let outcome = pipeline::run(&targets, &checkpoint, None, &options)?;
    progress.finish_and_clear();
    warn(&plan, &outcome, context);
    report(&plan, &checkpoint, &target, &outcome, start, context)
}

fn card_file(card: String) -> (String, Vec<u8>) {
    ("README.md".to_owned(), card.into_bytes())
}

/// The output that was named, or one named after the model and the scheme, here.
fn target(model: &str, output: &OutputArguments, plan: &Plan) -> PathBuf {
    output.output.clone().unwrap_or_else(|| {
        let local = Path::new(model);
        let name = if local.exists() { model } else { model.split('@').next().unwrap_or(model) };
        let name = if local.is_file() { Path::new(name).file_stem() } else { Path::new(name).file_name() };
        let stem = name.map_or("model".into(), |name| name.to_string_lossy());
        let suffix = plan.recipe.scheme.as_deref().or(plan.recipe.dtype.as_deref());
        export::default_path(&stem, suffix.unwrap_or(plan.request.format.name()), plan.request.format)
    })
}

/// Reasons that are printed after the work; the plan has them all.
const MOST_NOTES: usize = 5;

/// The command as it was given, for the model card.
fn command_line() -> String {
    let quoted = |word: String| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c));
        if plain && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let words = std::env::args_os().skip(1).map(|word| quoted(word.to_string_lossy().into_owned()));
    std::iter::once("llmc".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn warn(plan: &Plan, outcome: &Outcome, context: &Context) {
    for (name, nan, inf) in &outcome.nonfinite {
        eprintln!("warning: {name}: {nan} NaN and {inf} infinities were let pass");
    }
    let notes: BTreeSet<&str> =
        plan.steps.iter().filter(|step| step.substituted).filter_map(|step| step.note.as_deref()).collect();
    if context.global.quiet || notes.is_empty() {
        return;
    }
    let substituted = plan.steps.iter().filter(|step| step.substituted).count();
    eprintln!("note: {substituted} of {} tensors are stored otherwise than asked:", plan.steps.len());
    notes.iter().take(MOST_NOTES).for_each(|note| eprintln!("  {note}"));
    if notes.len() > MOST_NOTES {
        eprintln!("  … and {} more reasons: --dry-run lists every tensor's", notes.len() - MOST_NOTES);
    }
}

fn report(
    plan: &Plan,
    checkpoint: &Checkpoint,
    target: &Path,
    outcome: &Outcome,
    start: Instant,
    context: &Context,
) -> Result<()> {
    let read = pipeline::total_input_bytes(plan, checkpoint) - outcome.resumed_bytes;
    let seconds = start.elapsed().as_secs_f64();
    let text = || {
        format!(
            "{}{}\n{}in {seconds:.2} s: {} -> {}, {}/s\n",
            target.display(),
            match outcome.resumed {
                0 => String::new(),
                n => format!(" (resumed: {n} of {} tensors were finished already)", plan.steps.len()),
            },
            plan.summary(),
            HumanBytes(read),
            HumanBytes(plan.bytes()),
            HumanBytes((read as f64 / seconds) as u64)
        )
    };
    context.print(text, || {
        json!({
            "output": target.display().to_string(),
            "format": plan.request.format.name(),
            "quantized": plan.steps.iter().filter(|s| matches!(s.action, Action::Quantize(_))).count(),
            "tensors": plan.steps.len(),
            "substituted": plan.steps.iter().filter(|step| step.substituted).count(),
            "resumed": outcome.resumed,
            "input_bytes": read,
            "output_bytes": plan.bytes(),
            "bits_per_weight": plan.total().bits_per_weight(),
            "seconds": seconds,
        })
    })
}
