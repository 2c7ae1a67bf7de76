//! Mixed precision: from a recipe with a budget to one with a scheme for each linear.

use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;

use super::Context;
use super::job::{self, Spent};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::numerics::{Number, Scheme};
use crate::pipeline::{self, Options};
use crate::plan::{Allotment, Plan};
use crate::recipe::{Budget, Recipe};

/// Choices where the user names none: the fewest schemes that can meet the budget, those that engines have kernels for first.
const INTEGERS: &[&[&str]] =
    &[&["w4a16", "w8a16"], &["w3a16", "w4a16", "w8a16"], &["w2a16", "w3a16", "w4a16", "w8a16"]];
const BLOCKS: &[&[&str]] = &[
    &["q4_k", "q5_k", "q6_k", "q8_0"],
    &["q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
    &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
];

/// The recipe with its budget spent: measures what each group of linears loses, and chooses. `base` is the plan of the recipe
/// without its budget; what was measured stays in `file`.
///
/// # Errors
/// A budget that cannot be met; whatever measuring meets.
pub fn spend(
    base: &Plan,
    budget: &Budget,
    Spent { input, samples }: &Spent,
    file: &Path,
    resume: bool,
    checkpoint: &Arc<Checkpoint>,
    context: &Context,
) -> Result<Recipe> {
    let choices = choose(budget, base, checkpoint)?;
    let bar = context.bar(0, job::BLOCKS, "measuring what each linear loses");
    let options = Options {
        resume,
        interrupted: &context.interrupted,
        progress: &ProgressBar::hidden(),
        events: &|event| job::tell(event, &bar, context),
    };
    let sensitivity = pipeline::sensitivity(&choices, &samples.sequences, input, file, checkpoint, &options)?;
    bar.finish_and_clear();
    if !context.global.quiet {
        eprintln!("note: what each group of linears loses was measured, and is kept in {}", file.display());
    }
    tracing::info!(file = %file.display(), groups = sensitivity.len(), "measured what each group of linears loses");
    Allotment::new(budget, base, &choices, &sensitivity).spend()
}

/// The plans of the whole model as each of the schemes to choose from, the smallest first.
///
/// # Errors
/// Where even the smallest is too large for the budget.
fn choose(budget: &Budget, base: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<Vec<Plan>> {
    let own: Vec<&str> = budget.schemes.iter().map(String::as_str).collect();
    let lists = match base.request.scheme.map(|scheme| scheme.number) {
        _ if !own.is_empty() => &[own.as_slice()],
        Some(Number::Ggml(_)) => BLOCKS,
        Some(Number::Int { .. }) | None if base.request.activations.is_none() => INTEGERS,
        _ => {
            let what = "a budget for what is neither integers alone nor GGUF's blocks";
            return Err(Error::usage(what, "name the schemes to choose from: --choices nvfp4,w8a16"));
        }
    };
    let mut refused = None;
    for list in lists {
        let choices = plans(list, base, checkpoint)?;
        let unmeasured = pipeline::unmeasured(&choices, checkpoint)?;
        match Allotment::new(budget, base, &choices, &unmeasured).spend() {
            Ok(_) => return Ok(choices),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.expect("there is a list"))
}

fn plans(schemes: &[&str], base: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<Vec<Plan>> {
    let plans = schemes.iter().map(|scheme| as_choice(base, scheme).plan(checkpoint));
    let mut plans = plans.collect::<Result<Vec<_>>>()?;
    if let Some(other) = plans.iter().find(|plan| plan.request.activations != base.request.activations) {
        let name = other.recipe.scheme.as_deref().unwrap_or_default();
        let what = format!("--choices {name}: it does otherwise with inputs than the recipe's own scheme");
        return Err(Error::usage(what, "choose among schemes that end alike: w4a16,w8a16"));
    }
    plans.sort_by_key(Plan::bytes);
    Ok(plans)
}

/// The whole model as one of the choices: with zero points where the recipe's own scheme has them.
fn as_choice(base: &Plan, scheme: &str) -> Recipe {
    let zero_points = base
        .request
        .scheme
        .is_some_and(|Scheme { number, symmetric, .. }| !symmetric && matches!(number, Number::Int { .. }));
    let recipe = base.recipe.clone();
    Recipe {
        scheme: Some(scheme.to_owned()),
        symmetric: recipe.symmetric.or(zero_points.then_some(false)),
        ..recipe
    }
}
