//! The comparison of an output with its input.
//!
//! The recipe in the output's metadata is carried out again on the input, chunk by chunk. The result must equal the output to
//! the bit. The distance to the input's own values is reported too.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use rayon::prelude::*;

use super::adapter::check_adapter;
use super::check::{TensorCheck, Verification};
use crate::error::{Error, Result};
use crate::io::{Checkpoint, read_whole};
use crate::model::Transform;
use crate::numerics::sparsity::Tally;
use crate::pipeline::options::interrupted;
use crate::pipeline::output::{Record, mismatch, round_to, stored_values, wrong_scale};
use crate::pipeline::stream::{
    Chunk, Extents, Input, chunk_input_bytes, chunks_of, clear_nonfinite, gather, quantize_rows, raw_runs,
};
use crate::plan::{Action, OutputTensor, Piece, Plan, TensorPlan};
use crate::recipe::Recipe;
use crate::tensor::{DType, rows_cols};

/// The recipe that an output records.
pub(crate) fn recorded_recipe(written: &Checkpoint) -> Result<Recipe> {
    let text = written.metadata.get("llmc.recipe").ok_or_else(|| {
        Error::malformed(
            &written.path,
            "llmc.recipe in the metadata of the weight files",
            "none",
            "only what llmc wrote can be verified against its input",
        )
    })?;
    Recipe::from_toml(&format!("{}: llmc.recipe", written.path.display()), text)
}

/// Sums over the values of one tensor.
#[derive(Debug, Clone, Default)]
struct Sums {
    max: f64,
    squared_error: f64,
    squared: f64,
    mismatches: u64,
    /// The zeros of a pruned tensor.
    zeros: Tally,
    failure: Option<String>,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.max = self.max.max(other.max);
        self.squared_error += other.squared_error;
        self.squared += other.squared;
        self.mismatches += other.mismatches;
        self.zeros.add(other.zeros);
        self.failure = self.failure.take().or(other.failure);
    }
}

/// Compares `written` with the result of `plan` on `input`.
///
/// # Errors
/// An input that cannot be read. Problems of the output are in the result.
pub(crate) fn verify(
    plan: &Plan,
    input: &Checkpoint,
    written: &Checkpoint,
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<Verification> {
    let extents = Extents::new(plan, Input::plain(input), stop)?;
    let record = Record::read(written)?;
    let format = plan.request.format;
    let sums = plan
        .tensors
        .iter()
        .enumerate()
        .flat_map(|(index, tensor)| chunks_of(format, index, tensor))
        .par_bridge()
        .map(|chunk| {
            if stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            let tensor = &plan.tensors[chunk.tensor];
            let sums = check_chunk(plan, &extents, input, written, tensor, &chunk)?;
            progress.inc(chunk_input_bytes(input, tensor, &chunk));
            Ok((chunk, sums))
        })
        .collect::<Result<Vec<_>>>()?;
    let sums = per_tensor(sums);
    let mut tensors: Vec<TensorCheck> =
        sums.iter().map(|(index, sum)| tensor_check(&plan.tensors[*index], sum)).collect();
    compare_recorded(plan, written, record.as_ref(), &mut tensors)?;
    for (check, (index, sum)) in tensors.iter_mut().zip(&sums) {
        check.failure = check.failure.take().or_else(|| wrong_zeros(&plan.tensors[*index], sum));
    }
    if plan.request.adapter_rank().is_some() {
        tensors.extend(check_adapter(written, record.as_ref()));
    }
    let missing_record = record.is_none() && tensors.iter().any(|check| check.unknown);
    tensors.extend(strangers(plan, written));
    tensors.extend(changed_documents(plan, input, written)?);
    Ok(Verification { tensors, missing_record })
}

/// Compares the tensors with the record of a calibrated run.
fn compare_recorded(
    plan: &Plan,
    written: &Checkpoint,
    record: Option<&Record>,
    tensors: &mut [TensorCheck],
) -> Result<()> {
    for (tensor, check) in plan.tensors.iter().zip(tensors).filter(|(_, check)| check.failure.is_none()) {
        check.unknown = !repeatable(plan, tensor);
        if let Some(digest) = record.and_then(|record| record.digests.get(&tensor.output.name)) {
            check.failure = mismatch(written, &tensor.output, digest)?;
            check.unknown = false;
        }
        let scales = tensor.scales().map(|(_, part)| tensor.parts[part].name.as_str());
        let recorded = |name: &str| record.and_then(|record| record.scale(name));
        let wrong = scales.filter_map(|name| wrong_scale(written, name, recorded(name))).next();
        check.failure = check.failure.take().or(wrong);
    }
    Ok(())
}

/// Returns true if a tensor can be made again from the input alone.
fn repeatable(plan: &Plan, tensor: &TensorPlan) -> bool {
    let is_calibrated = match tensor.action {
        Action::Quantize(_) => plan.request.recipe.calibration.is_some() && plan.request.reads_text(),
        Action::Store(_) => false,
    };
    !tensor.corrected && !is_calibrated && !plan.request.edits()
}

/// Tensors of the output that are not in the plan.
fn strangers(plan: &Plan, written: &Checkpoint) -> Vec<TensorCheck> {
    let of_tensor = |tensor: &TensorPlan| {
        let sources = tensor.output.pieces.iter().map(|piece| piece.source.clone());
        sources.chain([tensor.output.name.clone()]).collect::<Vec<_>>()
    };
    let parts = plan.tensors.iter().flat_map(|tensor| &tensor.parts);
    let parts: HashSet<&str> = parts.map(|part| part.name.as_str()).collect();
    let known: HashSet<String> = plan.tensors.iter().flat_map(of_tensor).collect();
    let scales = written.activation_scales.keys().filter(|name| !parts.contains(name.as_str()));
    let unknown = written.tensors.keys().filter(|name| !known.contains(*name)).chain(scales);
    unknown.map(|name| TensorCheck::failed(name, "is not of this model")).collect()
}

/// Files beside the weights (config.json, index) that differ from those of the format.
fn changed_documents(plan: &Plan, input: &Checkpoint, written: &Checkpoint) -> Result<Vec<TensorCheck>> {
    if !written.path.is_dir() {
        return Ok(Vec::new());
    }
    let changed = |(name, content): &(String, Vec<u8>)| {
        let same = read_whole(&written.path.join(name)).is_ok_and(|found| found == *content);
        (!same).then(|| TensorCheck::failed(name, "is not what the format writes"))
    };
    Ok(plan.request.format.side_files(&plan.contents(), input)?.iter().filter_map(changed).collect())
}

/// Adds the sums of chunks up by tensor, in the order of the rows, so that the figures do not depend on the threads.
fn per_tensor(mut sums: Vec<(Chunk, Sums)>) -> BTreeMap<usize, Sums> {
    sums.sort_by_key(|(chunk, _)| (chunk.tensor, chunk.rows.start));
    let mut by_tensor: BTreeMap<usize, Sums> = BTreeMap::new();
    for (chunk, sum) in sums {
        by_tensor.entry(chunk.tensor).or_default().add(sum);
    }
    by_tensor
}

/// Returns what is wrong with the zeros of a pruned tensor.
fn wrong_zeros(tensor: &TensorPlan, sums: &Sums) -> Option<String> {
    tensor.sparsity?.fault(&sums.zeros, tensor.rows_cols())
}

fn tensor_check(tensor: &TensorPlan, sums: &Sums) -> TensorCheck {
    let count = tensor.elements().max(1) as f64;
    TensorCheck {
        name: tensor.output.name.clone(),
        stored: tensor.stored(),
        max_error: sums.max,
        rms_error: (sums.squared_error / count).sqrt(),
        relative_error: if sums.squared > 0.0 { (sums.squared_error / sums.squared).sqrt() } else { 0.0 },
        mismatches: sums.mismatches,
        unknown: false,
        failure: sums.failure.clone(),
    }
}

fn check_chunk(
    plan: &Plan,
    extents: &Extents,
    input: &Checkpoint,
    written: &Checkpoint,
    tensor: &TensorPlan,
    chunk: &Chunk,
) -> Result<Sums> {
    if matches!(tensor.action, Action::Store(dtype) if !dtype.is_float()) {
        return check_bytes(input, written, tensor, chunk);
    }
    let mut original = Vec::new();
    gather(Input::plain(input), &tensor.output, chunk.rows.clone(), &mut original)?;
    let mut found = Vec::new();
    if let Err(error) = read_back(written, &tensor.output, chunk.rows.clone(), &mut found) {
        return Ok(Sums { failure: Some(short(&error)), ..Sums::default() });
    }
    let sums = match repeatable(plan, tensor) {
        true => compare(tensor, &original, &expected(plan, extents, tensor, chunk, &original)?, &found),
        false => compare(tensor, &original, &found, &found),
    };
    Ok(Sums { zeros: tally(tensor, chunk, found), ..sums })
}

/// The zeros of some rows of a pruned tensor. Codes have no sign for them.
fn tally(tensor: &TensorPlan, chunk: &Chunk, mut values: Vec<f32>) -> Tally {
    let Some(sparsity) = tensor.sparsity else { return Tally::default() };
    if matches!(tensor.action, Action::Quantize(_)) {
        values.iter_mut().for_each(|value| *value = value.abs());
    }
    sparsity.tally(&values, tensor.rows_cols()[1], chunk.rows.start)
}

/// The text of an error without the file and the tensor, which the table has already.
fn short(error: &Error) -> String {
    match error {
        Error::Malformed { expected, found, .. } => format!("expected {expected}, found {found}"),
        error => error.to_string(),
    }
}

/// The result of the recipe on these rows.
fn expected(
    plan: &Plan,
    extents: &Extents,
    tensor: &TensorPlan,
    chunk: &Chunk,
    rows: &[f32],
) -> Result<Vec<f32>> {
    let mut values = rows.to_vec();
    match &tensor.action {
        Action::Store(dtype) => round_to(*dtype, &mut values),
        Action::Quantize(scheme) => {
            clear_nonfinite(&mut values);
            let extent = extents.of(chunk.tensor, tensor);
            let method = plan.request.rowwise.as_ref();
            values = stored_values(tensor, &quantize_rows(method, tensor, scheme, extent, None, values)?);
        }
    }
    Ok(values)
}

/// Reads rows of an output back: under its own name, or under the names of its sources if the reader restores these (GGUF).
fn read_back(
    written: &Checkpoint,
    output: &OutputTensor,
    rows: Range<usize>,
    values: &mut Vec<f32>,
) -> Result<()> {
    let Some(source) = written.tensors.get(&output.name) else {
        return check_shapes(written, output)
            .and_then(|()| gather(Input::plain(written), output, rows, values));
    };
    if source.shape != output.shape {
        return Err(shape_error(written, &output.name, &output.shape, &source.shape));
    }
    let [total, _] = rows_cols(&output.shape);
    let pieces = vec![Piece { source: output.name.clone(), rows: 0..total }];
    let direct = OutputTensor { transform: Transform::None, pieces, ..output.clone() };
    gather(Input::plain(written), &direct, rows, values)
}

fn check_shapes(written: &Checkpoint, output: &OutputTensor) -> Result<()> {
    let [_, cols] = rows_cols(&output.shape);
    for piece in &output.pieces {
        let source = written.source(&piece.source)?;
        let [rows, found] = rows_cols(&source.shape);
        if found != cols || rows < piece.rows.end {
            return Err(shape_error(written, &piece.source, &output.shape, &source.shape));
        }
    }
    Ok(())
}

fn shape_error(written: &Checkpoint, name: &str, expected: &[usize], found: &[usize]) -> Error {
    Error::malformed_tensor(
        &written.path,
        name,
        format!("shape {expected:?}"),
        format!("{found:?}"),
        "the output was not made from this input, or it was changed since",
    )
}

fn compare(tensor: &TensorPlan, original: &[f32], expected: &[f32], found: &[f32]) -> Sums {
    // Reading a Gemma norm subtracts the one that writing added: exact up to the rounding of both.
    let tolerance = if tensor.output.transform == Transform::AddOne { 1e-6 } else { 0.0 };
    let mut sums = Sums::default();
    for ((&original, &expected), &found) in original.iter().zip(expected).zip(found) {
        let same = expected.to_bits() == found.to_bits()
            || (expected.is_nan() && found.is_nan())
            || (tolerance > 0.0 && (expected - found).abs() <= tolerance * (1.0 + expected.abs()));
        sums.mismatches += u64::from(!same);
        let error = f64::from(found) - f64::from(original);
        if error.is_finite() {
            sums.max = sums.max.max(error.abs());
            sums.squared_error += error * error;
            sums.squared += f64::from(original) * f64::from(original);
        }
    }
    sums
}

fn check_bytes(input: &Checkpoint, written: &Checkpoint, tensor: &TensorPlan, chunk: &Chunk) -> Result<Sums> {
    let bytes = |checkpoint: &Checkpoint, dtype: DType| -> Option<Vec<u8>> {
        let runs = raw_runs(Input::plain(checkpoint), &tensor.output, chunk.rows.clone(), dtype).ok()??;
        Some(runs.concat())
    };
    let Action::Store(dtype) = tensor.action else {
        unreachable!("only stored tensors are compared as bytes")
    };
    let same = bytes(input, dtype) == bytes(written, dtype) && bytes(input, dtype).is_some();
    let failure = (!same).then(|| "its bytes differ from the input's".to_owned());
    Ok(Sums { failure, ..Sums::default() })
}
