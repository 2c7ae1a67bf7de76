//! `llmc verify`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::Context;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::{self, Verification};
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

/// Verifies; exit code 3 where it does not hold.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let written = context.open(&arguments.output)?;
    let verification = match &arguments.against {
        Some(input) => against(&written, &context.open(input)?, context)?,
        None => pipeline::verify_alone(&written, &context.interrupted)?,
    };
    context.print(|| text(&verification, arguments.all), || json!(verification))?;
    match verification.failed().count() {
        0 => Ok(()),
        failed => Err(Error::CheckFailed {
            what: format!(
                "{}: {failed} of {} tensors do not hold",
                arguments.output,
                verification.tensors.len()
            ),
            hint: "write it again with `llmc quantize … --overwrite`; if it fails again, please report it"
                .into(),
        }),
    }
}

fn against(written: &Checkpoint, input: &Checkpoint, context: &Context) -> Result<Verification> {
    let recipe = pipeline::recorded_recipe(written)?;
    let plan = Plan::new(&recipe, input)?;
    let recorded = written.metadata.get("llmc.input.blake3");
    let digest = pipeline::input_digest(input, &context.interrupted)?;
    if recorded.is_some_and(|recorded| *recorded != digest) {
        eprintln!(
            "warning: {} is not the file that the output was made from (blake3 differs)",
            input.path.display()
        );
    }
    let progress = context.progress(pipeline::total_input_bytes(&plan, input), "verifying");
    let verification = pipeline::verify(&plan, input, written, &context.interrupted, &progress)?;
    progress.finish_and_clear();
    Ok(verification)
}

fn text(verification: &Verification, all: bool) -> String {
    const WORST: usize = 10;
    let mut checks: Vec<_> = verification.tensors.iter().collect();
    if !all {
        let key = |check: &&pipeline::TensorCheck| (!check.holds(), check.relative_error);
        checks.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
        checks.truncate(WORST);
    }
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(6).max(6);
    let mut text = format!("{:width$}  {:24}  max error  rms error  relative  bits\n", "tensor", "stored as");
    for check in &checks {
        let verdict = match (&check.failure, check.mismatches) {
            (Some(failure), _) => failure.clone(),
            (None, 0) => "equal".to_owned(),
            (None, n) => format!("{n} values differ"),
        };
        let _ = writeln!(
            text,
            "{:width$}  {:24}  {:>9.3e}  {:>9.3e}  {:>8.5}  {verdict}",
            check.name, check.stored, check.max_error, check.rms_error, check.relative_error
        );
    }
    let failed = verification.failed().count();
    let held = verification.tensors.len() - failed;
    let _ = writeln!(text, "{held} of {} tensors hold", verification.tensors.len());
    text
}
