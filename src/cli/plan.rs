//! `llmc plan`.

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::Context;
use super::recipe_args::{RecipeArguments, catalogue};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline;
use crate::plan::Plan;
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
    let checkpoint = context.open(&arguments.model)?;
    print(&make(&recipe, &checkpoint, context)?, context)
}

/// The plan of a recipe. Where `strict` refuses it, the plan without `strict` is printed before the error, to show why.
pub fn make(recipe: &Recipe, checkpoint: &Checkpoint, context: &Context) -> Result<Plan> {
    let plan = Plan::new(recipe, checkpoint);
    if plan.is_err()
        && recipe.strict
        && let Ok(lenient) = Plan::new(&Recipe { strict: false, ..recipe.clone() }, checkpoint)
    {
        print(&lenient, context)?;
    }
    plan
}

/// Prints a plan.
pub fn print(plan: &Plan, context: &Context) -> Result<()> {
    let memory = pipeline::peak_memory(plan, rayon::current_num_threads());
    let threads = rayon::current_num_threads();
    let text = || {
        format!(
            "{}peak memory about {} besides the mapped input, threads: {threads}\n",
            plan.table(),
            HumanBytes(memory)
        )
    };
    context.print(text, || {
        let mut value = plan.json();
        value["peak_memory"] = json!(memory);
        value
    })
}
