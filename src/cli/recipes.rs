//! `llmc recipes`.

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::suggested;
use super::table::{self, labelled};
use crate::error::Result;
use crate::job::{RecipeRecord, recipes};

/// List the recipes that ship with llmc, or print one as TOML
///
/// `llmc run NAME` carries one out. Printed to a file, it is the beginning of a recipe of your own; recipes/README.md has
/// every key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc recipes
  llmc recipes w4a16-gptq > my-recipe.toml")]
pub(crate) struct Arguments {
    /// Print this recipe
    #[arg(value_parser = suggested::recipes(), hide_possible_values = true)]
    name: Option<String>,
}

/// Lists, or prints.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let records = recipes(arguments.name.as_deref())?;
    match (&arguments.name, records.as_slice()) {
        (Some(_), [recipe]) => context.print(|| recipe.toml.clone(), || json!(recipe)),
        _ => context.print(|| text(&records), || json!(records)),
    }
}

fn text(records: &[RecipeRecord]) -> String {
    let width = table::width();
    let names = records.iter().map(|recipe| recipe.name.chars().count()).max().unwrap_or(0) + 2;
    let line = |recipe: &RecipeRecord| {
        let needs = if recipe.needs_text { "; needs text: --data" } else { "" };
        labelled(&recipe.name, names, &recipe.summary, width)
            + &labelled("", names, &format!("{}{needs}", recipe.method), width)
    };
    let lines: String = records.iter().map(line).collect();
    let usage = "llmc run NAME --model MODEL --data TEXT carries one out; llmc recipes NAME prints it.";
    format!("{lines}\n{}", labelled("", 0, usage, width))
}
