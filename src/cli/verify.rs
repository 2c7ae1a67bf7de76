//! `llmc verify`.

use std::fmt::Write;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::context::Context;
use crate::error::Result;
use crate::job::{Verify, VerifyRecord};
use crate::pipeline::{TensorCheck, record_path};

/// Re-read an output as an engine would and compare it with what it was made from
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc verify model-w4a16 --against model.safetensors
  llmc verify model-q4_k.gguf --against models/qwen --json")]
pub(crate) struct Arguments {
    /// An output of llmc
    output: String,
    /// The model that it was made from: compare values, and redo the recipe to compare codes to the bit
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Show every tensor, not only the worst
    #[arg(long)]
    all: bool,
}

/// Verifies; exit code 3 if a tensor does not hold.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let job = Verify { output: arguments.output.clone(), against: arguments.against.clone() };
    let record = job.run(context)?;
    let text = || match record.compared {
        true => comparison(&record, &arguments.output, arguments.all),
        false => readings(&record, &arguments.output),
    };
    context.print(text, || json(&record))?;
    record.verdict(&arguments.output)
}

/// A line a tensor: the worst, or all.
fn comparison(record: &VerifyRecord, output: &str, all: bool) -> String {
    const WORST: usize = 10;
    let total = record.tensors.len();
    let mut checks: Vec<_> = record.tensors.iter().collect();
    if !all {
        let key = |check: &&TensorCheck| (!check.holds(), check.relative_error);
        checks.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
        checks.truncate(WORST);
    }
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(6).max(6);
    let mut text = format!("{:width$}  {:24}  max error  rms error  relative  bits\n", "tensor", "stored as");
    checks.iter().for_each(|check| text += &comparison_line(check, width));
    if checks.len() < total {
        let _ = writeln!(text, "… the {} worst of {total}; --all shows every one", checks.len());
    }
    let held = total - record.failed;
    let _ = writeln!(text, "{held} of {total} tensors hold");
    if record.missing_record {
        let unknown = record.tensors.iter().filter(|check| check.unknown).count();
        let path = record_path(Path::new(output));
        let _ = writeln!(
            text,
            "{unknown} of them were read, but not compared: the record of the calibrated run is missing ({})",
            path.display()
        );
    }
    text
}

fn comparison_line(check: &TensorCheck, width: usize) -> String {
    let TensorCheck { name, stored, max_error, rms_error, relative_error, mismatches, unknown, failure } =
        check;
    let named = format!("{name:width$}  {stored:24}");
    match (failure, mismatches) {
        (Some(failure), _) => format!("{named}  {:>9}  {:>9}  {:>8}  {failure}\n", "-", "-", "-"),
        (None, 0) => {
            let bits = if *unknown { "rewritten, readable" } else { "equal" };
            format!("{named}  {max_error:>9.3e}  {rms_error:>9.3e}  {relative_error:>8.5}  {bits}\n")
        }
        (None, n) => format!(
            "{named}  {max_error:>9.3e}  {rms_error:>9.3e}  {relative_error:>8.5}  {n} values differ\n"
        ),
    }
}

/// The report of reading alone.
fn readings(record: &VerifyRecord, output: &str) -> String {
    let mut text = String::new();
    for check in record.tensors.iter().filter(|check| !check.holds()) {
        let _ = writeln!(text, "{}: {}", check.name, check.failure.as_deref().unwrap_or_default());
    }
    let held = record.total - record.failed;
    let total = record.total;
    let _ = writeln!(text, "{output}: {held} of {total} tensors can be read, and are finite");
    let _ = writeln!(text, "not compared with anything: --against MODEL does that");
    text
}

/// The record; without errors for tensors that were compared with nothing.
fn json(record: &VerifyRecord) -> Value {
    let mut value = json!(record);
    let tensors = value["tensors"].as_array_mut().into_iter().flatten();
    for tensor in tensors.filter_map(Value::as_object_mut).filter(|_| !record.compared) {
        tensor.retain(|key, _| matches!(key.as_str(), "name" | "stored" | "failure"));
    }
    value
}
