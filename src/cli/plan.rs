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

/// Show what `quantize` would do to every tensor: scheme, substitutions, size, memory, engines
///
/// Layers that are alike are one line, with the numbers of all: model.layers.{0..29}.mlp.up_proj.weight.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = catalogue(EXAMPLES))]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// A line for each tensor, also where layers are alike
    #[arg(long)]
    all: bool,
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
    draft.plans.all().try_for_each(|plan| print(plan, &draft.checkpoint, arguments.all, context))
}

/// Prints a plan; with `all`, a line for each tensor.
pub(crate) fn print(plan: &Plan, checkpoint: &Arc<Checkpoint>, all: bool, context: &Context) -> Result<()> {
    let report = PlanReport::new(plan, checkpoint)?;
    context.print(|| report.text(all), || report.json())
}
