//! Mixed precision: a recipe with a budget becomes a recipe with a scheme for each group of linears.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;

use super::host::{Host, Notice, Phase, advance};
use crate::backend::Device;
use crate::calib::Samples;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::numerics::{Number, Scheme};
use crate::pipeline::{self, Options};
use crate::plan::{Allotment, Plan, Sensitivity};
use crate::recipe::{Budget, Recipe};

/// Default choices: the fewest schemes that can meet the budget, those that engines have kernels for first.
const INTEGERS: &[&[&str]] =
    &[&["w4a16", "w8a16"], &["w3a16", "w4a16", "w8a16"], &["w2a16", "w3a16", "w4a16", "w8a16"]];
const BLOCKS: &[&[&str]] = &[
    &["q4_k", "q5_k", "q6_k", "q8_0"],
    &["q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
    &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
];

/// The input and the text that a budget was measured with.
pub struct Measured {
    /// The digest of the input.
    pub input: String,
    /// The calibration sequences.
    pub samples: Samples,
}

/// A run that measures: its output, beside which the measurements are kept, and its surroundings.
pub(crate) struct Run<'a> {
    /// The output.
    pub output: &'a Path,
    /// True if it resumes from the measurements of an interrupted run.
    pub resume: bool,
    /// The device that runs the model.
    pub device: Device,
    /// Receives progress and messages.
    pub host: &'a dyn Host,
}

impl Run<'_> {
    /// The file beside the output whose name ends like this.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        let mut file = self.output.to_owned();
        file.as_mut_os_string().push(end);
        file
    }

    /// Carries a measurement out, with a progress bar of its blocks.
    pub(crate) fn measure<T>(&self, work: impl FnOnce(&Options) -> Result<T>) -> Result<T> {
        let &Run { resume, device, host, .. } = self;
        let bar = host.bar(Phase::Measuring, 0);
        let found = work(&Options {
            device,
            resume,
            interrupted: host.interrupted(),
            progress: &ProgressBar::hidden(),
            events: &|event| advance(event, &bar, host),
        })?;
        bar.finish_and_clear();
        Ok(found)
    }
}

/// Measures the loss of each group of linears under each scheme, and returns the recipe with the best schemes within the
/// budget. `base` is the plan of the recipe without its budget.
///
/// # Errors
/// A budget that cannot be met; whatever measuring meets.
pub(crate) fn spend(
    budget: &Budget,
    base: &Plan,
    measured: &Measured,
    run: &Run,
    checkpoint: &Arc<Checkpoint>,
) -> Result<Recipe> {
    let file = run.beside(".sensitivity.json");
    let choices = choose(budget, base, checkpoint)?;
    let sensitivity = measure(&choices, measured, &file, run, checkpoint)?;
    Allotment::new(budget, base, &choices, &sensitivity).spend()
}

fn measure(
    choices: &[Plan],
    measured: &Measured,
    file: &Path,
    run: &Run,
    checkpoint: &Arc<Checkpoint>,
) -> Result<Sensitivity> {
    let host = run.host;
    let sequences = measured.samples.sequences.len();
    host.notify(&Notice::Note(format!(
        "{} schemes are tried on each group of linears, with {sequences} sequences, to spend the budget best",
        choices.len()
    )));
    let Measured { input, samples } = measured;
    let sensitivity = run.measure(|options| {
        pipeline::sensitivity(choices, &samples.sequences, input, file, checkpoint, options)
    })?;
    tracing::info!(file = %file.display(), groups = sensitivity.len(), "measured the loss of each group");
    let note = format!("the loss of each group of linears was measured, and is kept in {}", file.display());
    host.notify(&Notice::Note(note));
    Ok(sensitivity)
}

/// Plans the whole model with each of the schemes to choose from, the smallest first.
///
/// # Errors
/// Even the smallest is too large for the budget.
fn choose(budget: &Budget, base: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<Vec<Plan>> {
    let own: Vec<&str> = budget.schemes.iter().map(String::as_str).collect();
    let lists = match base.request.scheme.map(|scheme| scheme.number) {
        _ if !own.is_empty() => &[own.as_slice()],
        Some(Number::Ggml(_)) => BLOCKS,
        Some(Number::Int { .. }) | None if base.request.activations.is_none() => INTEGERS,
        _ => {
            let what = "a budget for a scheme that is neither plain integers nor GGUF blocks";
            return Err(Error::usage(what, "name the schemes to choose from: --choices nvfp4,w8a16"));
        }
    };
    let mut refused = None;
    for list in lists {
        let choices = choices(list, base, checkpoint)?;
        let unmeasured = pipeline::unmeasured(&choices, checkpoint)?;
        match Allotment::new(budget, base, &choices, &unmeasured).spend() {
            Ok(_) => return Ok(choices),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.expect("there is a list"))
}

fn choices(schemes: &[&str], base: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<Vec<Plan>> {
    let plans = schemes.iter().map(|scheme| as_choice(base, scheme).plan(checkpoint));
    let mut plans = plans.collect::<Result<Vec<_>>>()?;
    if let Some(other) = plans.iter().find(|plan| plan.request.activations != base.request.activations) {
        let name = other.request.recipe.scheme.as_deref().unwrap_or_default();
        let what = format!("--choices {name}: it treats inputs otherwise than the recipe's own scheme");
        return Err(Error::usage(what, "choose among schemes that end alike: w4a16,w8a16"));
    }
    plans.sort_by_key(Plan::bytes);
    Ok(plans)
}

/// The recipe for the whole model with one of the choices: with zero points if the recipe's own scheme has them.
fn as_choice(base: &Plan, scheme: &str) -> Recipe {
    let zero_points = base
        .request
        .scheme
        .is_some_and(|Scheme { number, symmetric, .. }| !symmetric && matches!(number, Number::Int { .. }));
    let recipe = base.request.recipe.clone();
    Recipe {
        scheme: Some(scheme.to_owned()),
        symmetric: recipe.symmetric.or(zero_points.then_some(false)),
        ..recipe
    }
}
