//! A quantization job and its report, shared by `quantize`, `convert` and `run`.

use std::collections::BTreeSet;
use std::time::Instant;

use indicatif::HumanBytes;
use serde_json::json;

use super::calibration_args::CalibrationArguments;
use super::context::Context;
use super::{next_steps, plan, terminal};
use crate::error::Result;
use crate::job::{Quantize, QuantizeRecord, coverage, expert_coverage};
use crate::names::shell_word;
use crate::plan::Plan;
use crate::recipe::{PerFormat, Recipe};

use super::output_args::OutputArguments;

/// Most reasons that are printed after the work; the plan has them all.
const MOST_NOTES: usize = 5;

/// Carries `recipe` out on `model` and prints the result; with --dry-run, prints the plan.
pub(crate) fn run(
    model: &str,
    recipe: &Recipe,
    output: &OutputArguments,
    calibration: &CalibrationArguments,
    context: &Context,
) -> Result<()> {
    let start = Instant::now();
    let job = Quantize {
        model: model.to_owned(),
        recipe: recipe.clone(),
        destination: output.destination(),
        min_coverage: calibration.min_coverage,
        device: calibration.device,
        command: command_line(),
    };
    let mut draft = job.draft(context)?;
    if job.destination.dry_run {
        return draft.plans.all().try_for_each(|plan| plan::print(plan, &draft.checkpoint, false, context));
    }
    next_steps::announce(&draft, context)?;
    let records = job.carry_out(&mut draft, start, context)?;
    draft.plans.all().for_each(|plan| note_substitutions(plan, context));
    context.print(|| text(&records, &draft.plans), || json(&records))?;
    next_steps::tell(&job, &draft, context);
    job.check_coverage(&records)
}

/// The command as it was given.
fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| shell_word(&word.to_string_lossy()).into_owned());
    std::iter::once("llmc".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn note_substitutions(plan: &Plan, context: &Context) {
    let substituted: Vec<_> = plan.tensors.iter().filter(|tensor| tensor.substituted).collect();
    let notes: BTreeSet<&str> = substituted.iter().filter_map(|tensor| tensor.note.as_deref()).collect();
    if context.is_quiet() || context.prints_json() || notes.is_empty() {
        return;
    }
    let (count, all) = (substituted.len(), plan.tensors.len());
    terminal::tell(&format!("note: {count} of {all} tensors use a different scheme than requested:"));
    notes.iter().take(MOST_NOTES).for_each(|note| terminal::tell(&format!("  {note}")));
    if notes.len() > MOST_NOTES {
        let more = notes.len() - MOST_NOTES;
        terminal::tell(&format!("  … and {more} more reasons: `llmc plan` with the same flags has all"));
    }
}

fn text(records: &[QuantizeRecord], plans: &PerFormat<Plan>) -> String {
    let outputs: String =
        records.iter().zip(plans.all()).map(|(record, plan)| output_text(record, plan)).collect();
    outputs + &coverage::table(&expert_coverage(records))
}

fn output_text(record: &QuantizeRecord, plan: &Plan) -> String {
    let resumed = match record.resumed {
        0 => String::new(),
        n => format!(" (resumed: {n} of {} tensors were finished already)", record.tensors),
    };
    format!(
        "{}{resumed}\n{}{}in {:.2} s: {} -> {}, {}/s\n",
        record.output,
        plan.summary(),
        methods(plan),
        record.seconds,
        HumanBytes(record.input_bytes),
        HumanBytes(record.output_bytes),
        HumanBytes((record.input_bytes as f64 / record.seconds) as u64)
    )
}

/// The methods, the calibration data, and the adapter.
fn methods(plan: &Plan) -> String {
    if plan.request.aim().is_none() && !plan.request.reshapes() {
        return String::new();
    }
    let data = match &plan.request.recipe.calibration {
        None => String::new(),
        Some(calibration) if calibration.statistics.is_empty() => {
            format!(", {} sequences of {}", calibration.samples, calibration.data.join(", "))
        }
        Some(_) => ", statistics of an earlier run".to_owned(),
    };
    let adapter = if plan.request.adapter_rank().is_some() { "; its LoRA is in adapter/" } else { "" };
    format!("by {}{data}{adapter}\n", plan.request.recipe.method_names())
}

/// One record by itself, several as a list.
fn json(records: &[QuantizeRecord]) -> serde_json::Value {
    match records {
        [record] => json!(record),
        records => json!(records),
    }
}
