//! `llmc inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::collapse::{self, Line};
use super::context::Context;
use super::plan_report::{shape, times};
use super::table::{self, Column, labelled, table};
use crate::error::Result;
use crate::io::{Checkpoint, Source};
use crate::job::Host;

/// Show a checkpoint: tensors, types, sizes, and what llmc recognises in it
///
/// Layers that are alike are one line, with the numbers of all: model.layers.{0..29}.mlp.up_proj.weight.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc inspect model.safetensors
  llmc inspect org/name --json")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// A line for each tensor, also where layers are alike
    #[arg(long)]
    all: bool,
}

/// Inspects.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let checkpoint = context.open(&arguments.model)?;
    let side: Vec<String> = checkpoint.side_files()?.iter().map(|side| side.name.clone()).collect();
    context.print(|| text(&checkpoint, &side, arguments.all), || json(&checkpoint, &side))
}

const COLUMNS: [Column; 5] = [
    Column::text("tensor"),
    Column::number(""),
    Column::number("shape"),
    Column::text("stored as"),
    Column::number("size"),
];

/// The width of the labels below the table.
const LABELS: usize = 25;

fn text(checkpoint: &Checkpoint, side: &[String], all: bool) -> String {
    let width = table::width();
    let sources: Vec<&Source> = checkpoint.tensors.values().collect();
    let rows: Vec<Vec<String>> = lines(&sources, all).iter().map(|line| row(&sources, line)).collect();
    let mut text = format!("{}\n", table(&COLUMNS, &rows, width));
    for (name, (tensors, bytes)) in totals(checkpoint) {
        let _ = writeln!(text, "{name:24} {tensors:>5} tensors  {:>12}", HumanBytes(bytes).to_string());
    }
    for (name, value) in recognised(checkpoint, side) {
        text += &labelled(name, LABELS, &value, width);
    }
    text
}

fn lines(sources: &[&Source], all: bool) -> Vec<Line> {
    if all {
        return collapse::each(sources.iter().map(|source| source.name.clone()));
    }
    let key = |source: &Source| (source.shape.clone(), source.stored_as(), source.stored_bytes());
    collapse::collapse(sources.iter().map(|source| (source.name.clone(), key(source))))
}

fn row(sources: &[&Source], line: &Line) -> Vec<String> {
    let (count, first) = (line.members.len(), sources[line.members[0]]);
    let bytes = first.stored_bytes().saturating_mul(count as u64);
    vec![
        line.name.clone(),
        times(count),
        shape(&first.shape),
        first.stored_as(),
        HumanBytes(bytes).to_string(),
    ]
}

fn totals(checkpoint: &Checkpoint) -> BTreeMap<String, (usize, u64)> {
    let mut totals = BTreeMap::new();
    for source in checkpoint.tensors.values() {
        let entry: &mut (usize, u64) = totals.entry(source.stored_as()).or_default();
        entry.0 += 1;
        entry.1 += source.stored_bytes();
    }
    totals
}

/// Further properties: architecture, quantization, parameters, files, provenance.
fn recognised(checkpoint: &Checkpoint, side: &[String]) -> Vec<(&'static str, String)> {
    let config = |key: &str| Some(checkpoint.config.as_ref()?.get(key)?.as_str()?.to_owned());
    let parameters: u64 =
        checkpoint.tensors.values().map(|s| s.shape.iter().map(|&d| d as u64).product::<u64>()).sum();
    let mut found = vec![
        ("path", checkpoint.path.display().to_string()),
        ("parameters", parameters.to_string()),
        ("weight files", checkpoint.files.len().to_string()),
    ];
    let optional = [
        ("model type", config("model_type")),
        ("quantization", checkpoint.quantization.clone()),
        ("not read", checkpoint.packed.clone()),
        ("made by llmc", checkpoint.metadata.get("llmc.version").cloned()),
        ("beside the weights", (!side.is_empty()).then(|| side.join(", "))),
    ];
    found.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    found
}

fn json(checkpoint: &Checkpoint, side: &[String]) -> Value {
    let tensors: Vec<Value> = checkpoint
        .tensors
        .values()
        .map(|source| {
            json!({
                "name": source.name,
                "shape": source.shape,
                "stored": source.stored_as(),
                "bytes": source.stored_bytes(),
            })
        })
        .collect();
    let mut value = json!({ "tensors": tensors, "metadata": checkpoint.metadata });
    for (name, text) in recognised(checkpoint, side) {
        value[name.replace(' ', "_")] = json!(text);
    }
    value
}
