//! What `quantize` and `convert` share: open, plan, run, report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};

use super::{Context, budget, coverage};
use crate::calib::data::Watch;
use crate::calib::{Known, Samples};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::{self, Event, Material, Options, Outcome, Target};
use crate::plan::{Action, Plan};
use crate::recipe::{Calibration, Recipe};

/// Where the output goes.
#[derive(Debug, Default, Args)]
pub struct OutputArguments {
    /// Output folder (or .gguf file) [default: named after the model]
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
    /// Nothing is to be written.
    pub fn none() -> OutputArguments {
        OutputArguments { dry_run: true, ..OutputArguments::default() }
    }

    /// Whether the named output is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.output.as_ref().is_some_and(|path| path.extension().is_some_and(|e| e == "gguf"))
    }
}

/// Opens `model`, carries `recipe` out on it, prints what was done; then checks that every expert was sent the tokens
/// that are asked for.
pub fn run(
    model: &str,
    recipe: &Recipe,
    output: &OutputArguments,
    min_coverage: Option<u64>,
    context: &Context,
) -> Result<()> {
    let start = Instant::now();
    if min_coverage.is_some() && !recipe.has_text() {
        return Err(Error::usage("--min-coverage without text to count", "name one with --data"));
    }
    let Draft { checkpoint, mut plans, paths, spent } = draft(model, recipe, output, context)?;
    if output.dry_run {
        return plans.iter().try_for_each(|plan| super::plan::print(plan, &checkpoint, context));
    }
    let (input, knowledge) = match spent {
        Some(Spent { input, samples }) => (input, Some(Knowledge::Text(samples))),
        None => {
            let input = pipeline::input_digest(&checkpoint, &context.interrupted)?;
            let find = |calibration| Knowledge::find(calibration, &plans[0], &checkpoint, &input, context);
            let knowledge = recipe.calibration.as_ref().map(find).transpose()?;
            (input, knowledge)
        }
    };
    for plan in &mut plans {
        plan.metadata = pipeline::provenance(plan, &checkpoint, &input);
        let digest = knowledge.as_ref().map(|knowledge| knowledge.digest().to_owned());
        plan.metadata.extend(digest.map(|digest| ("llmc.calibration.blake3".to_owned(), digest)));
    }
    let documents: Vec<Vec<(String, Vec<u8>)>> = plans.iter().map(|plan| cards(plan, model)).collect();
    let targets: Vec<Target> = plans
        .iter()
        .zip(&paths)
        .zip(&documents)
        .map(|((plan, path), documents)| Target { plan, path, documents })
        .collect();
    let outcome = carry_out(&targets, &checkpoint, knowledge.as_ref(), output, context)?;
    for target in &targets {
        warn(target.plan, &outcome, context);
    }
    report(&targets, &checkpoint, &outcome, start, context)?;
    coverage::check(&outcome.blocks, min_coverage)
}

/// What is to be done, before it is.
pub struct Draft {
    /// The input.
    pub checkpoint: Arc<Checkpoint>,
    /// One for each format.
    pub plans: Vec<Plan>,
    /// Where their outputs go.
    paths: Vec<PathBuf>,
    /// What it took to spend a budget, where there was one.
    spent: Option<Spent>,
}

/// What a budget is spent by.
pub struct Spent {
    /// The input's digest.
    pub input: String,
    /// The text.
    pub samples: Samples,
}

/// Opens `model` and makes the plans of a recipe; spends its budget, where it has one.
pub fn draft(model: &str, recipe: &Recipe, output: &OutputArguments, context: &Context) -> Result<Draft> {
    recipe.refuse_repeated()?;
    let checkpoint = Arc::new(pipeline::untie(&recipe.per_format()[0].resolve()?, context.open(model)?)?);
    let plans = |recipe: &Recipe| super::plan::make_all(recipe, &checkpoint, context);
    let outline = plans(&Recipe { budget: None, ..recipe.clone() })?;
    let idle = outline.iter().all(|plan| !plan.request.reads_text());
    if recipe.calibration.is_some() && recipe.budget.is_none() && idle {
        let what = format!("{} does not look at text for this scheme", recipe.method_names());
        return Err(Error::usage(what, "--method gptq does; or leave the calibration out"));
    }
    let paths = targets(model, output, &outline);
    for (plan, path) in outline.iter().zip(&paths).filter(|_| !output.dry_run) {
        pipeline::check_target(
            &checkpoint,
            path,
            plan.request.format.capabilities().single_file,
            output.overwrite,
        )?;
    }
    let (Some(budget), Some(calibration)) = (&recipe.budget, &recipe.calibration) else {
        if output.dry_run {
            check_text(recipe, &checkpoint, context)?;
        }
        return Ok(Draft { checkpoint, plans: outline, paths, spent: None });
    };
    let ([base], [path]) = (outline.as_slice(), paths.as_slice()) else {
        let hint = "schemes take different space in each: make one at a time";
        return Err(Error::usage("a budget for several formats", hint));
    };
    let samples = draw(calibration, &checkpoint, context)?;
    let spent = Spent { input: pipeline::input_digest(&checkpoint, &context.interrupted)?, samples };
    let mut file = path.clone();
    file.as_mut_os_string().push(".sensitivity.json");
    let recipe = budget::spend(base, budget, &spent, &file, !output.no_resume, &checkpoint, context)?;
    let plans = plans(&recipe)?;
    Ok(Draft { checkpoint, plans, paths, spent: Some(spent) })
}

/// That the text which a recipe names is there and suffices, where that can be found out without a run.
fn check_text(recipe: &Recipe, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<()> {
    match &recipe.calibration {
        Some(calibration) if calibration.at_hand() => draw(calibration, checkpoint, context).map(drop),
        _ => Ok(()),
    }
}

/// What is known of the model's inputs, or can be found out.
enum Knowledge {
    Text(Samples),
    Statistics(Known),
}

impl Knowledge {
    fn find(
        calibration: &Calibration,
        plan: &Plan,
        checkpoint: &Arc<Checkpoint>,
        input: &str,
        context: &Context,
    ) -> Result<Knowledge> {
        match calibration.statistics.as_slice() {
            [] => draw(calibration, checkpoint, context).map(Knowledge::Text),
            paths => pipeline::recall(paths, plan, checkpoint, input).map(Knowledge::Statistics),
        }
    }

    fn digest(&self) -> &str {
        match self {
            Knowledge::Text(samples) => &samples.digest,
            Knowledge::Statistics(known) => &known.digest,
        }
    }

    fn material(&self, plan: &Plan) -> Material<'_> {
        let calibration = plan.recipe.calibration.as_ref();
        let expert_tokens = calibration.map_or(0, |calibration| calibration.expert_tokens);
        match self {
            Knowledge::Text(samples) => {
                Material { sequences: &samples.sequences, expert_tokens, known: None }
            }
            Knowledge::Statistics(known) => Material { known: Some(known), ..Material::default() },
        }
    }
}

fn carry_out(
    targets: &[Target],
    checkpoint: &Arc<Checkpoint>,
    knowledge: Option<&Knowledge>,
    output: &OutputArguments,
    context: &Context,
) -> Result<Outcome> {
    let bytes = targets.iter().map(|target| pipeline::total_input_bytes(target.plan, checkpoint)).sum();
    let plan = targets[0].plan;
    let by_block = knowledge.is_some() || !plan.request.only_rows();
    let progress = if by_block { context.bar(0, BLOCKS, "") } else { context.progress(bytes, "writing") };
    let options = Options {
        resume: !output.no_resume,
        interrupted: &context.interrupted,
        progress: if by_block { &ProgressBar::hidden() } else { &progress },
        events: &|event| tell(event, &progress, context),
    };
    let material =
        by_block.then(|| knowledge.map_or(Material::default(), |knowledge| knowledge.material(plan)));
    let outcome = pipeline::run(targets, checkpoint, material, &options)?;
    progress.finish_and_clear();
    Ok(outcome)
}

/// The progress of the block loop.
pub const BLOCKS: &str = "{pos}/{len} blocks [{wide_bar}] eta {eta} {msg}";

/// Draws the calibration sequences.
pub fn draw(calibration: &Calibration, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<Samples> {
    let bar =
        context.bar(0, "{msg} [{wide_bar}] {pos}/{len} tokens eta {eta}", "the model writes its own text");
    let progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let samples = calibration
        .sequences(checkpoint, &Watch { interrupted: &context.interrupted, progress: &progress })?;
    bar.finish_and_clear();
    tracing::info!(sequences = samples.sequences.len(), tokens = samples.tokens(), "calibration set");
    Ok(samples)
}

/// Shows what happens in the block loop: on the bar, or as lines of JSON on stderr.
pub fn tell(event: &Event, bar: &ProgressBar, context: &Context) {
    let json = |value: Value| {
        if context.global.json && !context.global.quiet {
            eprintln!("{value}");
        }
    };
    match event {
        Event::Linear { block, linear } => {
            let error = linear.compensated_error.or(linear.relative_error);
            let error = error.map_or(String::new(), |error| format!("{:.2} %", 100.0 * error));
            tracing::info!(linear = linear.name, scheme = linear.scheme, error, "quantized");
            bar.set_message(format!("{}: error {error}", linear.name));
            json(json!({ "event": "linear", "block": block, "name": linear.name, "scheme": linear.scheme,
                         "relative_error": linear.relative_error }));
        }
        Event::Start { done, of } => {
            bar.set_length(*of as u64);
            bar.set_position(*done as u64);
            bar.reset_eta();
        }
        Event::Block { index, of } => {
            bar.set_position(*index as u64 + 1);
            json(json!({ "event": "block", "block": index, "of": of }));
        }
    }
}

/// The model card, where the output is a folder.
fn cards(plan: &Plan, model: &str) -> Vec<(String, Vec<u8>)> {
    let card = || crate::job::card::model_card(plan, &command_line(), model).into_bytes();
    if plan.request.format.capabilities().single_file {
        vec![]
    } else {
        vec![("README.md".to_owned(), card())]
    }
}

/// Where outputs go: as named; several into the folder that was named, under their formats.
fn targets(model: &str, output: &OutputArguments, plans: &[Plan]) -> Vec<PathBuf> {
    let within = |folder: &PathBuf, plan: &Plan| {
        let name = plan.request.format.name();
        folder.join(if plan.request.format.capabilities().single_file {
            format!("model.{name}")
        } else {
            name.to_owned()
        })
    };
    match (&output.output, plans) {
        (Some(path), [_]) => vec![path.clone()],
        (Some(folder), plans) => plans.iter().map(|plan| within(folder, plan)).collect(),
        (None, plans) => plans.iter().map(|plan| default_target(model, plan, plans.len() > 1)).collect(),
    }
}

/// Named after the model and the scheme, and where there are several after the format, here.
fn default_target(model: &str, plan: &Plan, several: bool) -> PathBuf {
    let local = Path::new(model);
    let name = if local.exists() { model } else { model.split('@').next().unwrap_or(model) };
    let name = if local.is_file() { Path::new(name).file_stem() } else { Path::new(name).file_name() };
    let stem = name.map_or("model".into(), |name| name.to_string_lossy());
    let format = plan.request.format;
    let suffix = plan.recipe.scheme.as_deref().or(plan.recipe.dtype.as_deref()).unwrap_or(format.name());
    let suffix = if several { format!("{suffix}-{}", format.name()) } else { suffix.to_owned() };
    PathBuf::from(match format.capabilities().single_file {
        true => format!("{stem}-{suffix}.gguf"),
        false => format!("{stem}-{suffix}"),
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
    let notes: BTreeSet<&str> = plan
        .tensors
        .iter()
        .filter(|tensor| tensor.substituted)
        .filter_map(|tensor| tensor.note.as_deref())
        .collect();
    if context.global.quiet || notes.is_empty() {
        return;
    }
    let substituted = plan.tensors.iter().filter(|tensor| tensor.substituted).count();
    eprintln!("note: {substituted} of {} tensors are stored otherwise than asked:", plan.tensors.len());
    notes.iter().take(MOST_NOTES).for_each(|note| eprintln!("  {note}"));
    if notes.len() > MOST_NOTES {
        eprintln!("  … and {} more reasons: --dry-run lists every tensor's", notes.len() - MOST_NOTES);
    }
}

fn report(
    targets: &[Target],
    checkpoint: &Checkpoint,
    outcome: &Outcome,
    start: Instant,
    context: &Context,
) -> Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    let text = || {
        let targets = targets.iter().map(|target| target_text(target, checkpoint, outcome, seconds));
        targets.chain([coverage::table(&outcome.blocks)]).collect()
    };
    let json = || {
        let mut all: Vec<Value> =
            targets.iter().map(|target| target_json(target, checkpoint, outcome, seconds)).collect();
        if all.len() == 1 { all.remove(0) } else { all.into() }
    };
    context.print(text, json)
}

/// Input bytes that a run had to read.
fn bytes_read(target: &Target, checkpoint: &Checkpoint, outcome: &Outcome) -> u64 {
    pipeline::total_input_bytes(target.plan, checkpoint).saturating_sub(outcome.resumed_bytes)
}

fn target_text(target: &Target, checkpoint: &Checkpoint, outcome: &Outcome, seconds: f64) -> String {
    let (plan, read) = (target.plan, bytes_read(target, checkpoint, outcome));
    let resumed = match outcome.resumed {
        0 => String::new(),
        n => format!(" (resumed: {n} of {} tensors were finished already)", plan.tensors.len()),
    };
    format!(
        "{}{resumed}\n{}{}in {seconds:.2} s: {} -> {}, {}/s\n",
        target.path.display(),
        plan.summary(),
        how(plan),
        HumanBytes(read),
        HumanBytes(plan.bytes()),
        HumanBytes((read as f64 / seconds) as u64)
    )
}

/// The methods, and what else there is.
fn how(plan: &Plan) -> String {
    if plan.request.scheme.is_none() {
        return String::new();
    }
    let calibration = plan.recipe.calibration.as_ref();
    let text = calibration.map_or(String::new(), |calibration| match calibration.statistics.is_empty() {
        true => format!(", {} sequences of {}", calibration.samples, calibration.data.join(", ")),
        false => ", statistics of an earlier run".to_owned(),
    });
    let adapter = if plan.request.adapter_rank().is_some() { "; its LoRA is in adapter/" } else { "" };
    format!("by {}{text}{adapter}\n", plan.recipe.method_names())
}

fn target_json(target: &Target, checkpoint: &Checkpoint, outcome: &Outcome, seconds: f64) -> Value {
    let plan = target.plan;
    json!({
        "output": target.path.display().to_string(),
        "format": plan.request.format.name(),
        "method": plan.recipe.method_names(),
        "quantized": plan.tensors.iter().filter(|s| matches!(s.action, Action::Quantize(_))).count(),
        "tensors": plan.tensors.len(),
        "substituted": plan.tensors.iter().filter(|tensor| tensor.substituted).count(),
        "resumed": outcome.resumed,
        "input_bytes": bytes_read(target, checkpoint, outcome),
        "output_bytes": plan.bytes(),
        "bits_per_weight": plan.total().bits_per_weight(),
        "quantized_bits_per_weight": plan.quantized().bits_per_weight(),
        "blocks": outcome.blocks,
        "seconds": seconds,
    })
}
