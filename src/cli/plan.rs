//! `llmc plan`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::context::Context;
use super::recipe_args::{RecipeArguments, catalogue};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::job::{Destination, Quantize};
use crate::pipeline::{self, Estimate};
use crate::plan::Plan;

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
    let job = Quantize {
        model: arguments.model.clone(),
        recipe: arguments.recipe.recipe()?,
        destination: Destination { dry_run: true, ..Destination::default() },
        device: arguments.recipe.knowledge.calibration.device,
        ..Quantize::default()
    };
    let draft = job.draft(context)?;
    draft.plans.all().try_for_each(|plan| print(plan, &draft.checkpoint, context))
}

/// Prints a plan.
pub fn print(plan: &Plan, checkpoint: &Arc<Checkpoint>, context: &Context) -> Result<()> {
    let threads = rayon::current_num_threads();
    let calibration = plan.request.recipe.calibration.as_ref();
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
