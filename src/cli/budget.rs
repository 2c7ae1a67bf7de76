//! Mixed precision: from a recipe with a budget to one with a scheme for each linear.

use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;

use super::{Context, job};
use crate::calib::Samples;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::numerics::{Number, Scheme};
use crate::pipeline::{self, Options};
use crate::plan::{Allotment, Plan, Sensitivity};
use crate::recipe::{Budget, Recipe};

/// Choices where the user names none: the fewest schemes that can meet the budget, those that engines have kernels for first.
const INTEGERS: &[&[&str]] =
    &[&["w4a16", "w8a16"], &["w3a16", "w4a16", "w8a16"], &["w2a16", "w3a16", "w4a16", "w8a16"]];
const BLOCKS: &[&[&str]] = &[
    &["q4_k", "q5_k", "q6_k", "q8_0"],
    &["q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
    &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
];

/// The recipe with its budget spent: measures what each group of linears loses, and chooses. What was measured stays in
/// `file`.
///
/// # Errors
/// A budget that cannot be met; several formats, which would need one each; whatever measuring meets.
pub fn spend(
    recipe: &Recipe,
    samples: &Samples,
    file: &Path,
    resume: bool,
    checkpoint: &Arc<Checkpoint>,
    context: &Context,
) -> Result<Recipe> {
    let Some(budget) = &recipe.budget else { return Ok(recipe.clone()) };
    let base_recipe = Recipe { budget: None, ..recipe.clone() };
    let base = Plan::new(&base_recipe, checkpoint)?;
    let (schemes, choices) = choose(budget, &base, checkpoint)?;
    Allotment::new(budget, &base, &choices, &unknown(&choices)).spend(recipe, &schemes)?; // can it be met at all?
    let bar = context.bar(0, job::BLOCKS, "measuring what each linear loses");
    let options = Options {
        resume,
        interrupted: &context.interrupted,
        progress: &ProgressBar::hidden(),
        events: &|event| job::tell(event, &bar, context),
    };
    let sensitivity = pipeline::sensitivity(&choices, &samples.sequences, file, checkpoint, &options)?;
    bar.finish_and_clear();
    tracing::info!(file = %file.display(), groups = sensitivity.len(), "measured what each group of linears loses");
    Allotment::new(budget, &base, &choices, &sensitivity).spend(recipe, &schemes)
}

/// The schemes to choose from, and the plans of the whole model as each.
fn choose(budget: &Budget, base: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<(Vec<String>, Vec<Plan>)> {
    let plans = |schemes: &[String]| -> Result<Vec<Plan>> {
        schemes.iter().map(|scheme| Plan::new(&as_choice(base, scheme), checkpoint)).collect()
    };
    if !budget.schemes.is_empty() {
        return Ok((budget.schemes.clone(), plans(&budget.schemes)?));
    }
    let lists = match base.request.scheme.map(|scheme| scheme.number) {
        Some(Number::Ggml(_)) => BLOCKS,
        Some(Number::Int { .. }) | None => INTEGERS,
        Some(_) => {
            let what = "a budget for what is neither integers nor GGUF's blocks";
            return Err(Error::usage(what, "name the schemes to choose from: --choices nvfp4,w8a16"));
        }
    };
    let mut last = (Vec::new(), Vec::new());
    for list in lists {
        let schemes: Vec<String> = list.iter().map(|name| (*name).to_owned()).collect();
        let choices = plans(&schemes)?;
        let fits = Allotment::new(budget, base, &choices, &unknown(&choices)).fits();
        last = (schemes, choices);
        if fits {
            break;
        }
    }
    Ok(last)
}

/// Every group, before anything is measured.
fn unknown(choices: &[Plan]) -> Sensitivity {
    let names = choices.iter().flat_map(|plan| plan.schemes().into_keys());
    names.map(|name| (crate::plan::group(name), vec![0.0; choices.len()])).collect()
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
