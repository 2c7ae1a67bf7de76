//! `llmc verify`.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::{self, TensorCheck, Verification};
use crate::plan::Plan;

/// Re-read an output as an engine would and compare it with what it was made from
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc verify model-w4a16 --against model.safetensors
  llmc verify model-q4_k.gguf --against models/qwen --json")]
pub struct Arguments {
    /// What llmc wrote
    output: String,
    /// What it was made from: compare values, and redo the recipe to compare codes to the bit
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Show every tensor, not only the worst
    #[arg(long)]
    all: bool,
}

/// What is being verified, and what it is compared with.
struct Subject<'a> {
    output: &'a str,
    against: Option<&'a str>,
    /// Whether the input is, byte for byte, the one that the output records.
    same_input: bool,
}

/// Verifies; exit code 3 where it does not hold.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let written = context.open(&arguments.output)?;
    let (verification, same_input) = match &arguments.against {
        Some(input) => against(&written, context.open(input)?, context)?,
        None => (pipeline::verify_alone(&written, &context.interrupted)?, true),
    };
    let subject = Subject { output: &arguments.output, against: arguments.against.as_deref(), same_input };
    let text = || match subject.against {
        Some(_) => comparison(&verification, arguments.all),
        None => readings(&verification, &arguments.output),
    };
    context.print(text, || json(&verification, &subject))?;
    verdict(&verification, &subject)
}

fn against(written: &Checkpoint, input: Checkpoint, context: &Context) -> Result<(Verification, bool)> {
    let recipe = pipeline::recorded_recipe(written)?;
    let input = &pipeline::untie(&recipe.resolve()?, input)?;
    let plan = Plan::new(&recipe, input)?;
    let digest = pipeline::input_digest(input, &context.interrupted)?;
    let same_input = written.metadata.get("llmc.input.blake3").is_none_or(|recorded| *recorded == digest);
    if !same_input {
        eprintln!(
            "warning: {} is not what the output was made from: its blake3 differs",
            input.path.display()
        );
    }
    let progress = context.progress(pipeline::total_input_bytes(&plan, input), "verifying");
    let verification = pipeline::verify(&plan, input, written, &context.interrupted, &progress)?;
    progress.finish_and_clear();
    Ok((verification, same_input))
}

fn verdict(verification: &Verification, subject: &Subject) -> Result<()> {
    let failed = verification.failed().count();
    if failed == 0 {
        return Ok(());
    }
    let hint = match (subject.against, subject.same_input) {
        (Some(_), false) => {
            "compare it with what it was made from: its model card and metadata (llmc.input) say what that was"
        }
        (Some(_), true) => "make it again with --overwrite; if it fails again, please report it",
        (None, _) => "the file is damaged, or was made so: make it again, and verify it --against its input",
    };
    let total = verification.tensors.len();
    Err(Error::CheckFailed {
        what: format!("{}: {failed} of {total} do not hold", subject.output),
        hint: hint.into(),
    })
}

/// A line a tensor: the worst, or all.
fn comparison(verification: &Verification, all: bool) -> String {
    const WORST: usize = 10;
    let total = verification.tensors.len();
    let mut checks: Vec<_> = verification.tensors.iter().collect();
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
    let held = total - verification.failed().count();
    let _ = writeln!(text, "{held} of {total} tensors hold");
    if let Some(path) = &verification.missing_record {
        let unknown = verification.tensors.iter().filter(|check| check.unknown).count();
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

/// What reading alone tells.
fn readings(verification: &Verification, output: &str) -> String {
    let mut text = String::new();
    for check in verification.failed() {
        let _ = writeln!(text, "{}: {}", check.name, check.failure.as_deref().unwrap_or_default());
    }
    let total = verification.tensors.len();
    let held = total - verification.failed().count();
    let _ = writeln!(text, "{output}: {held} of {total} tensors can be read, and are finite");
    let _ = writeln!(text, "not compared with anything: --against MODEL does that");
    text
}

fn json(verification: &Verification, subject: &Subject) -> Value {
    let failed = verification.failed().count();
    let tensors = verification.tensors.iter().map(|check| match subject.against {
        Some(_) => json!(check),
        None => json!({ "name": check.name, "stored": check.stored, "failure": check.failure }),
    });
    json!({
        "holds": failed == 0,
        "failed": failed,
        "total": verification.tensors.len(),
        "compared": subject.against.is_some(),
        "input_matches": subject.against.map(|_| subject.same_input),
        "missing_record": verification.missing_record,
        "tensors": tensors.collect::<Vec<_>>(),
    })
}
