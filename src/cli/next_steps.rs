//! The lines around a quantization, on stderr: its method and its needs before the work; behind it what it lost, and the
//! commands that come next.

use std::path::Path;

use indicatif::HumanBytes;

use super::context::Context;
use super::recipe_args::default_stages;
use super::terminal;
use crate::engine::Tokenizer;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::job::{Draft, Quantize, serve_command, stays};
use crate::model;
use crate::names::shell_word;
use crate::pipeline;
use crate::plan::Plan;
use crate::recipe::{Calibration, Recipe, Stage};

/// Bits of a code (of a block, with its scales) below which rounding without data loses much.
const FEW_BITS: f64 = 5.0;
/// The losses of SmolLM2-135M in INT4, by `mse` and by `gptq`, as docs/benchmarks.md has them.
const INT4_LOSSES: &str = "SmolLM2-135M's perplexity goes from 21.3 to 31.0, with --data self to 23.9";

/// Says before the work what will be done, and what it takes.
pub(super) fn announce(draft: &Draft, context: &Context) -> Result<()> {
    if context.is_quiet() || context.prints_json() {
        return Ok(());
    }
    for (plan, path) in draft.plans.all().zip(draft.paths.all()) {
        let input = HumanBytes(pipeline::total_input_bytes(plan, &draft.checkpoint));
        let (what, needs) = (method(plan, &draft.checkpoint), needs(plan, draft)?);
        let size = HumanBytes(plan.bytes());
        terminal::tell(&format!("note: {what}: {input} -> {size} in {}{needs}", path.display()));
    }
    Ok(())
}

/// The scheme, the methods and the data: `w4a16 by gptq, on 128 sequences of 512 tokens of a.txt`.
fn method(plan: &Plan, checkpoint: &Checkpoint) -> String {
    let recipe = &plan.request.recipe;
    let aims: Vec<String> = stays(checkpoint).into_iter().chain(plan.request.aim()).collect();
    if aims.is_empty() {
        return format!("to {}", plan.dtype.name());
    }
    let aim = aims.join(", ");
    let data = match &recipe.calibration {
        None => " without data".to_owned(),
        Some(calibration) => data(calibration),
    };
    let stored = if plan.request.only_prunes() { " (stored like other weights)" } else { "" };
    format!("{aim}{stored} by {}{data}", recipe.method_names())
}

fn data(calibration: &Calibration) -> String {
    if !calibration.statistics.is_empty() {
        return ", on statistics of an earlier run".to_owned();
    }
    let Calibration { samples, seq_len, data, .. } = calibration;
    format!(", on {samples} sequences of {seq_len} tokens of {}", data.join(", "))
}

/// The memory, and the disk space that a calibrated run needs beside the output.
fn needs(plan: &Plan, draft: &Draft) -> Result<String> {
    let threads = rayon::current_num_threads();
    let recipe = &plan.request.recipe;
    let reads = recipe.has_text() && plan.request.reads_text();
    let Some(calibration) = recipe.calibration.as_ref().filter(|_| reads) else {
        return Ok(format!("; memory about {}", HumanBytes(pipeline::peak_memory(plan, threads))));
    };
    let tokens = calibration.samples.saturating_mul(calibration.seq_len);
    let cost = pipeline::estimate(plan, &draft.checkpoint, tokens, threads)?;
    let (memory, disk) = (HumanBytes(cost.memory), HumanBytes(cost.disk));
    Ok(format!(
        "; memory about {memory}, {disk} of disk space until it ends; the time is known after a block"
    ))
}

/// Names what comes next: a better output where this one lost much, a measurement, an engine, the hub.
pub(super) fn tell(job: &Quantize, draft: &Draft, context: &Context) {
    if context.is_quiet() || context.prints_json() {
        return;
    }
    let runs = can_run(&draft.checkpoint);
    let better = better_recipe(&draft.plans.primary).filter(|_| runs);
    if better.is_some() {
        terminal::tell(&format!("note: {}", loss(&draft.plans.primary)));
    }
    if job.recipe.calibration.is_none() && draft.plans.primary.request.sparsity().is_some() {
        terminal::tell("note: zeros without a text lose much: --method sparsegpt with --data loses far less");
    }
    let print = |what: &str, line: String| terminal::tell(&format!("  {what:10} {line}"));
    if let Some(line) = better.and_then(|recipe| better_command(&recipe)) {
        print("lose less:", line);
    }
    let output = |path: &Path| shell_word(&path.display().to_string()).into_owned();
    if runs {
        let (ours, model) = (output(&draft.paths.primary), shell_word(&job.model));
        print("measure:", format!("llmc eval perplexity {ours} --against {model} --data TEXT.txt"));
    }
    for (plan, path) in draft.plans.all().zip(draft.paths.all()) {
        if let Some(line) = serve_command(plan, &draft.checkpoint, &output(path)) {
            print("serve:", line);
            print("upload:", format!("hf upload ORG/{} {}", repository(path), output(path)));
        }
    }
}

/// A name for an output on the hub.
fn repository(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    shell_word(&name.unwrap_or_default().to_string_lossy()).into_owned()
}

/// A sentence on what rounding without data costs.
fn loss(plan: &Plan) -> String {
    let bits = plan.quantized().bits_per_weight();
    let is_int4 = plan.request.scheme.is_some_and(|scheme| scheme.to_string().starts_with("int4"));
    let example = if is_int4 { format!(" ({INT4_LOSSES})") } else { String::new() };
    format!("rounding to {bits:.1} bits per weight without data loses much on small models{example}")
}

/// The recipe of this plan with calibration on the model's own text, if that is possible and loses less: where few bits were
/// rounded without data.
fn better_recipe(plan: &Plan) -> Option<Recipe> {
    let recipe = &plan.request.recipe;
    let few = plan.request.scheme.is_some_and(|scheme| scheme.code_bits() < FEW_BITS);
    if recipe.calibration.is_some() || !few {
        return None;
    }
    let calibration = Some(Calibration { data: vec!["self".into()], ..Calibration::default() });
    let stages = [Vec::new(), vec![Stage::new("gptq")]];
    let candidates = stages.into_iter().map(|stages| Recipe {
        stages,
        calibration: calibration.clone(),
        ..recipe.clone()
    });
    candidates.into_iter().find(|recipe| recipe.resolve().is_ok_and(|request| request.reads_text()))
}

/// The command that was given, with `--data self` and the method that makes use of it; `None` where it was no `quantize`.
fn better_command(recipe: &Recipe) -> Option<String> {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let quantizes = words.iter().any(|word| word == "quantize");
    quantizes.then(|| with_data(words, recipe))
}

fn with_data(words: Vec<String>, recipe: &Recipe) -> String {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--method" => drop(words.next()),
            "--overwrite" => {}
            _ if word.starts_with("--method=") => {}
            _ => kept.push(shell_word(&word).into_owned()),
        }
    }
    let scheme = recipe.scheme.as_deref().unwrap_or_default();
    let method = match recipe.stages.first() {
        Some(stage) if default_stages(scheme, true).is_empty() => format!(" --method {}", stage.method),
        _ => String::new(),
    };
    format!("llmc {} --data self{method} --overwrite", kept.join(" "))
}

/// Returns true if llmc can run the model: to measure it, and to let it write.
fn can_run(checkpoint: &Checkpoint) -> bool {
    let Some(config) = &checkpoint.config else { return false };
    let writes = model::configure(config).is_ok_and(|model| model.frame.head.is_some());
    writes && Tokenizer::open(checkpoint).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_better_command_is_the_one_that_was_given_with_data() {
        let check = |given: &str, scheme: &str, stages: Vec<Stage>, expected: &str| {
            let words = given.split(' ').map(str::to_owned).collect();
            let recipe = Recipe { scheme: Some(scheme.into()), stages, ..Recipe::default() };
            assert_eq!(with_data(words, &recipe), expected);
        };
        let gptq = || vec![Stage::new("gptq")];
        check(
            "quantize --bits 4 m -o out",
            "w4a16",
            gptq(),
            "llmc quantize --bits 4 m -o out --data self --overwrite",
        );
        check(
            "quantize m --overwrite --scheme w4a16 --method mse",
            "w4a16",
            gptq(),
            "llmc quantize m --scheme w4a16 --data self --overwrite",
        );
        check(
            "quantize m --method=rtn --scheme nf4",
            "nf4",
            gptq(),
            "llmc quantize m --scheme nf4 --data self --method gptq --overwrite",
        );
        check(
            "quantize m --scheme q4_k",
            "q4_k",
            Vec::new(),
            "llmc quantize m --scheme q4_k --data self --overwrite",
        );
    }
}
