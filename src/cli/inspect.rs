//! `llmc inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::context::Context;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::job::Host;
use crate::names::shown;

/// Show a checkpoint: tensors, types, sizes, and what llmc recognises in it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc inspect model.safetensors
  llmc inspect org/name --json")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
}

/// Inspects.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let checkpoint = context.open(&arguments.model)?;
    let side: Vec<String> = checkpoint.side_files()?.iter().map(|side| side.name.clone()).collect();
    context.print(|| text(&checkpoint, &side), || json(&checkpoint, &side))
}

fn text(checkpoint: &Checkpoint, side: &[String]) -> String {
    let mut text = String::new();
    let names = checkpoint.tensors.keys().map(|name| shown(name));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(6).max(6);
    let _ = writeln!(text, "{:width$}  {:>18}  {:20}  {:>12}", "tensor", "shape", "stored as", "bytes");
    for (name, source) in &checkpoint.tensors {
        let shape = source.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let _ = writeln!(
            text,
            "{:width$}  {shape:>18}  {:20}  {:>12}",
            shown(name),
            source.stored_as(),
            source.stored_bytes()
        );
    }
    let _ = writeln!(text);
    for (name, (tensors, bytes)) in totals(checkpoint) {
        let _ = writeln!(text, "{name:24} {tensors:>5} tensors  {:>12}", HumanBytes(bytes).to_string());
    }
    for (name, value) in recognised(checkpoint, side) {
        let _ = writeln!(text, "{name:24} {value}");
    }
    text
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
