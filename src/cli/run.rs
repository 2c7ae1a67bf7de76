//! `llmc run`.

use std::path::Path;

use clap::Args;

use super::calibration_args::KnowledgeArguments;
use super::context::Context;
use super::output_args::OutputArguments;
use super::{quantization, suggested};
use crate::error::{Error, Result};
use crate::io::read_text;
use crate::recipe::{Calibration, Recipe, SHIPPED};

const EXAMPLES: &str = "Examples:
  llmc run w4a16-gptq --model models/qwen --data corpus.jsonl
  llmc run my-recipe.toml --model org/name --set gptq.damping=0.05 --dry-run";

/// Carry out a recipe: stages in order, overrides by name, calibration, one output or several
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = shipped()
)]
pub(crate) struct Arguments {
    /// A TOML file, or the name of a shipped recipe (--help lists them)
    #[arg(value_parser = suggested::recipes(), hide_possible_values = true)]
    recipe: String,
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    #[arg(long)]
    model: String,
    /// Set a key of the recipe: group_size=64, gptq.damping=0.05 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The shipped recipes and what each says of itself.
fn shipped() -> String {
    let first_lines = |text: &str| {
        let comment = text.lines().map_while(|line| line.strip_prefix('#'));
        comment.map(|line| format!("     {line}\n")).collect::<String>()
    };
    let entry = |(name, text): &(&str, &str)| format!("  {name}\n{}", first_lines(text));
    format!("Shipped recipes:\n{}\n{EXAMPLES}", SHIPPED.iter().map(entry).collect::<String>())
}

/// Runs.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let mut recipe = read(&arguments.recipe)?;
    arguments.set.iter().try_for_each(|assignment| recipe.set(assignment))?;
    if arguments.knowledge.any() || recipe.calibration.is_some() {
        let own = recipe.calibration.take().unwrap_or_default();
        recipe.calibration = Some(arguments.knowledge.over(own));
    }
    refuse_no_data(&arguments.recipe, &recipe)?;
    let calibration = &arguments.knowledge.calibration;
    quantization::run(&arguments.model, &recipe, &arguments.output, calibration, context)
}

/// Refuses a recipe that calibrates, without data: no text is taken, or written for half an hour, that nobody asked for.
fn refuse_no_data(name: &str, recipe: &Recipe) -> Result<()> {
    let is_missing =
        |calibration: &Calibration| calibration.data.is_empty() && calibration.statistics.is_empty();
    if !recipe.calibration.as_ref().is_some_and(is_missing) {
        return Ok(());
    }
    let hint =
        "--data FILE reads one; --data self lets the model write its own, which takes longer than the rest";
    Err(Error::usage(format!("the recipe {name} calibrates on a text, and none is named"), hint))
}

/// A recipe: a file, or a shipped one.
fn read(name: &str) -> Result<Recipe> {
    if Path::new(name).exists() || name.ends_with(".toml") {
        let text = read_text(Path::new(name));
        let text = text.map_err(|e| e.where_missing("`llmc recipes` lists those that ship with llmc"))?;
        return Recipe::from_toml(name, &text);
    }
    Recipe::shipped(name)
}
