//! `llmc plan`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::Context;
use super::job::{self, OutputArguments};
use super::recipe_args::{RecipeArguments, catalogue};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline::{self, Estimate};
use crate::plan::{self, Plan};
use crate::recipe::Recipe;

const EXAMPLES: &str = "Examples:
  llmc plan --bits 4 model.safetensors
  llmc plan models/qwen --scheme q4_k --json";

/// Show what `quantize` would do to every tensor: scheme, substitutions, size, memory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = catalogue(EXAMPLES))]
pub struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// Plans.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let recipe = arguments.recipe.recipe()?;
    let draft = job::draft(&arguments.model, &recipe, &OutputArguments::none(), context)?;
    draft.plans.iter().try_for_each(|plan| print(plan, &draft.checkpoint, context))
}

/// The plans of a recipe, one for each of its formats: the first is carried out, the others store what it makes.
pub fn make_all(recipe: &Recipe, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<Vec<Plan>> {
    let recipes = recipe.per_format();
    let plans = recipes.iter().map(|recipe| make(recipe, checkpoint, context));
    let mut plans = plans.collect::<Result<Vec<Plan>>>()?;
    plan::agree(&mut plans)?;
    for plan in &plans {
        if let Err(error) = plan.refuse_substitutions() {
            print(plan, checkpoint, context)?;
            return Err(error);
        }
    }
    Ok(plans)
}

/// The plan of a recipe. Where `strict` refuses it, the plan without `strict` is printed before the error, to show why.
fn make(recipe: &Recipe, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<Plan> {
    let plan = recipe.plan(checkpoint);
    if plan.is_err()
        && recipe.strict
        && let Ok(lenient) = (Recipe { strict: false, ..recipe.clone() }).plan(checkpoint)
    {
        print(&lenient, checkpoint, context)?;
    }
    plan
}

/// Prints a plan.
pub fn print(plan: &Plan, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<()> {
    let threads = rayon::current_num_threads();
    let calibration = plan.recipe.calibration.as_ref();
    let tokens = calibration.map(|calibration| match calibration.statistics.is_empty() {
        true => calibration.samples.saturating_mul(calibration.seq_len),
        false => 0,
    });
    let estimate = tokens.map(|tokens| pipeline::estimate(plan, checkpoint, tokens, threads)).transpose()?;
    let memory = estimate.map_or_else(|| pipeline::peak_memory(plan, threads), |estimate| estimate.memory);
    let calibrating = |Estimate { disk, seconds, .. }: Estimate| {
        format!(
            "calibration on {} tokens: about {} for hidden states beside the output, about {}{}\n",
            tokens.unwrap_or_default(),
            HumanBytes(disk),
            HumanDuration(Duration::from_secs_f64(seconds)),
            if plan.request.trains() { ", and what training takes" } else { "" },
        )
    };
    let text = || {
        format!(
            "{}{}peak memory about {} besides the mapped input, threads: {threads}\n",
            plan.table(),
            estimate.map(calibrating).unwrap_or_default(),
            HumanBytes(memory)
        )
    };
    context.print(text, || {
        let mut value = plan.json();
        value["peak_memory"] = json!(memory);
        if let Some(Estimate { disk, seconds, .. }) = estimate {
            value["hidden_states"] = json!(disk);
            value["estimated_seconds"] = json!(seconds);
        }
        value
    })
}
