//! `llmc plan`.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::plan_report::PlanReport;
use super::recipe_args::{RecipeArguments, catalogue};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::job::{Destination, Quantize};
use crate::plan::Plan;

const EXAMPLES: &str = "Examples:
  llmc plan --bits 4 model.safetensors
  llmc plan models/qwen --scheme q4_k --json";

/// Show what `quantize` would do to every tensor: scheme, substitutions, size, memory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = catalogue(EXAMPLES))]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// Plans.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let job = Quantize {
        model: arguments.model.clone(),
        recipe: arguments.recipe.recipe(false)?,
        destination: Destination { dry_run: true, ..Destination::default() },
        device: arguments.recipe.knowledge.calibration.device,
        ..Quantize::default()
    };
    let draft = job.draft(context)?;
    draft.plans.all().try_for_each(|plan| print(plan, &draft.checkpoint, context))
}

/// Prints a plan.
pub(crate) fn print(plan: &Plan, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<()> {
    let report = PlanReport::new(plan, checkpoint)?;
    context.print(|| report.text(), || report.json())
}
