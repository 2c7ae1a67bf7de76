//! `verify`: reads back what was written, as an engine would, and compares it with what it was made from.
//!
//! The recipe in the output's metadata is carried out again on the input, chunk by chunk; what the method chooses must be
//! what the output holds, to the bit. The distance to the input's own values is reported beside it.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use rayon::prelude::*;
use serde::Serialize;

use super::chunks::{CHUNK_ELEMENTS, Chunk, chunks_of};
use super::extents::Extents;
use super::gather::{NonFinite, clear_nonfinite, gather, raw_runs};
use super::interrupted;
use super::made::Input;
use super::recorded::{Record, mismatch, round_to, stored_values, wrong_scale};
use super::stream::{chunk_input_bytes, quantize_rows};
use crate::error::{Error, Result};
use crate::export::{Output, Piece, rows_cols};
use crate::io::{Checkpoint, Source, Stored};
use crate::model::Transform;
use crate::plan::{Action, Plan, Step};
use crate::recipe::Recipe;
use crate::tensor::DType;

/// How one tensor of the output compares with the input.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TensorCheck {
    /// The output's name.
    pub name: String,
    /// What it was stored as.
    pub stored: String,
    /// Largest distance to the input's values.
    pub max_error: f64,
    /// Root mean square of the distance.
    pub rms_error: f64,
    /// The same, relative to the root mean square of the input's values.
    pub relative_error: f64,
    /// Values that are not, to the bit, what the recipe gives.
    pub mismatches: u64,
    /// Whether what it ought to hold is not known: a calibrated run changed it, and has not recorded what it made.
    pub unknown: bool,
    /// Why it could not be read, if it could not.
    pub failure: Option<String>,
}

impl TensorCheck {
    fn failed(name: &str, why: &str) -> TensorCheck {
        TensorCheck { name: name.to_owned(), failure: Some(why.to_owned()), ..TensorCheck::default() }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.mismatches == 0 && self.failure.is_none()
    }
}

/// What `verify` found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verification {
    /// Every tensor of the plan.
    pub tensors: Vec<TensorCheck>,
    /// The record of a calibrated run that should be there and is not.
    pub missing_record: Option<PathBuf>,
}

impl Verification {
    /// Tensors that do not hold.
    pub fn failed(&self) -> impl Iterator<Item = &TensorCheck> {
        self.tensors.iter().filter(|check| !check.holds())
    }
}

/// Sums over the values of one tensor.
#[derive(Debug, Clone, Default)]
struct Sums {
    max: f64,
    squared_error: f64,
    squared: f64,
    mismatches: u64,
    failure: Option<String>,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.max = self.max.max(other.max);
        self.squared_error += other.squared_error;
        self.squared += other.squared;
        self.mismatches += other.mismatches;
        self.failure = self.failure.take().or(other.failure);
    }
}

/// Compares `written` with what `plan` makes of `input`.
///
/// # Errors
/// Where the input cannot be read. What is wrong with the output is in the result.
pub fn verify(
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
        .steps
        .iter()
        .enumerate()
        .flat_map(|(index, step)| chunks_of(format, index, step))
        .par_bridge()
        .map(|chunk| {
            if stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            let step = &plan.steps[chunk.step];
            let sums = check_chunk(plan, &extents, input, written, step, &chunk)?;
            progress.inc(chunk_input_bytes(input, step, &chunk));
            Ok((chunk, sums))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut tensors = per_tensor(plan, sums);
    compare_recorded(plan, written, record.as_ref(), &mut tensors)?;
    let missing = record.is_none() && tensors.iter().any(|check| check.unknown);
    let missing_record = missing.then(|| Record::path(written));
    tensors.extend(strangers(plan, written));
    tensors.extend(changed_documents(plan, input, written)?);
    Ok(Verification { tensors, missing_record })
}

/// Holds what a calibrated run made against what it recorded.
fn compare_recorded(
    plan: &Plan,
    written: &Checkpoint,
    record: Option<&Record>,
    tensors: &mut [TensorCheck],
) -> Result<()> {
    for (step, check) in plan.steps.iter().zip(tensors).filter(|(_, check)| check.failure.is_none()) {
        check.unknown = !repeatable(plan, step);
        if let Some(digest) = record.and_then(|record| record.digests.get(&step.output.name)) {
            check.failure = mismatch(written, &step.output, digest)?;
            check.unknown = false;
        }
        let scales = step.scales().map(|(_, part)| step.parts[part].name.as_str());
        let recorded = |name: &str| record.and_then(|record| record.scale(name));
        let wrong = scales.filter_map(|name| wrong_scale(written, name, recorded(name))).next();
        check.failure = check.failure.take().or(wrong);
    }
    Ok(())
}

/// Whether what a step holds can be made again from the input alone.
fn repeatable(plan: &Plan, step: &Step) -> bool {
    match step.action {
        Action::Quantize(_) => plan.recipe.calibration.is_none() && plan.request.rewriting.is_empty(),
        Action::Store(_) => !plan.request.rewrites(),
    }
}

/// Tensors of the output that the plan does not know.
fn strangers(plan: &Plan, written: &Checkpoint) -> Vec<TensorCheck> {
    let of_step = |step: &Step| {
        let sources = step.output.pieces.iter().map(|piece| piece.source.clone());
        sources.chain([step.output.name.clone()]).collect::<Vec<_>>()
    };
    let parts = plan.steps.iter().flat_map(|step| &step.parts);
    let parts: HashSet<&str> = parts.map(|part| part.name.as_str()).collect();
    let known: HashSet<String> = plan.steps.iter().flat_map(of_step).collect();
    let scales = written.activation_scales.keys().filter(|name| !parts.contains(name.as_str()));
    let unknown = written.tensors.keys().filter(|name| !known.contains(*name)).chain(scales);
    unknown.map(|name| TensorCheck::failed(name, "is not of this model")).collect()
}

/// Files beside the weights (config.json, index) that are not what the format writes.
fn changed_documents(plan: &Plan, input: &Checkpoint, written: &Checkpoint) -> Result<Vec<TensorCheck>> {
    if !written.path.is_dir() {
        return Ok(Vec::new());
    }
    let changed = |(name, content): &(String, Vec<u8>)| {
        let same = std::fs::read(written.path.join(name)).is_ok_and(|found| found == *content);
        (!same).then(|| TensorCheck::failed(name, "is not what the format writes"))
    };
    Ok(plan.request.format.side_files(plan, input)?.iter().filter_map(changed).collect())
}

/// Chunk sums → tensors, added up in the order of the rows, so that the figures do not depend on the threads.
fn per_tensor(plan: &Plan, mut sums: Vec<(Chunk, Sums)>) -> Vec<TensorCheck> {
    sums.sort_by_key(|(chunk, _)| (chunk.step, chunk.rows.start));
    let mut by_step: BTreeMap<usize, Sums> = BTreeMap::new();
    for (chunk, sum) in sums {
        by_step.entry(chunk.step).or_default().add(sum);
    }
    by_step.into_iter().map(|(index, sum)| tensor_check(&plan.steps[index], sum)).collect()
}

fn tensor_check(step: &Step, sums: Sums) -> TensorCheck {
    let count = step.elements().max(1) as f64;
    TensorCheck {
        name: step.output.name.clone(),
        stored: step.action.to_string(),
        max_error: sums.max,
        rms_error: (sums.squared_error / count).sqrt(),
        relative_error: if sums.squared > 0.0 { (sums.squared_error / sums.squared).sqrt() } else { 0.0 },
        mismatches: sums.mismatches,
        unknown: false,
        failure: sums.failure,
    }
}

fn check_chunk(
    plan: &Plan,
    extents: &Extents,
    input: &Checkpoint,
    written: &Checkpoint,
    step: &Step,
    chunk: &Chunk,
) -> Result<Sums> {
    if matches!(step.action, Action::Store(dtype) if !dtype.is_float()) {
        return check_bytes(input, written, step, chunk);
    }
    let mut original = Vec::new();
    gather(Input::plain(input), &step.output, chunk.rows.clone(), &mut original)?;
    let mut found = Vec::new();
    match read_back(written, &step.output, chunk.rows.clone(), &mut found) {
        Ok(()) if repeatable(plan, step) => {
            Ok(compare(step, &original, &expected(plan, extents, step, chunk, &original)?, &found))
        }
        Ok(()) => Ok(compare(step, &original, &found, &found)),
        Err(error) => Ok(Sums { failure: Some(short(&error)), ..Sums::default() }),
    }
}

/// An error without the file and the tensor, which the table names already.
fn short(error: &Error) -> String {
    match error {
        Error::Malformed { expected, found, .. } => format!("expected {expected}, found {found}"),
        error => error.to_string(),
    }
}

/// What the recipe makes of these rows.
fn expected(plan: &Plan, extents: &Extents, step: &Step, chunk: &Chunk, rows: &[f32]) -> Result<Vec<f32>> {
    let mut values = rows.to_vec();
    match &step.action {
        Action::Store(dtype) => round_to(*dtype, &mut values),
        Action::Quantize(scheme) => {
            clear_nonfinite(&mut values);
            let extent = extents.of(chunk.step, step);
            let method = plan.request.method.as_ref();
            values = stored_values(step, &quantize_rows(method, step, scheme, extent, None, values)?);
        }
    }
    Ok(values)
}

/// Reads rows of an output back: under its own name, or, where the reader has mapped names back (GGUF), from the tensors
/// it was made from.
fn read_back(written: &Checkpoint, output: &Output, rows: Range<usize>, values: &mut Vec<f32>) -> Result<()> {
    let Some(source) = written.tensors.get(&output.name) else {
        return check_shapes(written, output)
            .and_then(|()| gather(Input::plain(written), output, rows, values));
    };
    if source.shape != output.shape {
        return Err(shape_error(written, &output.name, &output.shape, &source.shape));
    }
    let [total, _] = rows_cols(&output.shape);
    let pieces = vec![Piece { source: output.name.clone(), rows: 0..total }];
    let direct = Output { transform: Transform::None, pieces, ..output.clone() };
    gather(Input::plain(written), &direct, rows, values)
}

fn check_shapes(written: &Checkpoint, output: &Output) -> Result<()> {
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

fn compare(step: &Step, original: &[f32], expected: &[f32], found: &[f32]) -> Sums {
    // Reading a Gemma norm takes away the one that writing added: exact up to the rounding of the two.
    let tolerance = if step.output.transform == Transform::AddOne { 1e-6 } else { 0.0 };
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

fn check_bytes(input: &Checkpoint, written: &Checkpoint, step: &Step, chunk: &Chunk) -> Result<Sums> {
    let bytes = |checkpoint: &Checkpoint, dtype: DType| -> Option<Vec<u8>> {
        let runs = raw_runs(Input::plain(checkpoint), &step.output, chunk.rows.clone(), dtype).ok()??;
        Some(runs.concat())
    };
    let Action::Store(dtype) = step.action else { unreachable!("only stored tensors are compared as bytes") };
    let same = bytes(input, dtype) == bytes(written, dtype) && bytes(input, dtype).is_some();
    let failure = (!same).then(|| "its bytes differ from the input's".to_owned());
    Ok(Sums { failure, ..Sums::default() })
}

/// The recipe that an output records.
pub fn recorded_recipe(written: &Checkpoint) -> Result<Recipe> {
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

/// Checks an output by itself: every tensor can be read, every value is finite, and activations can be divided by their scales.
pub fn verify_alone(written: &Checkpoint, stop: &AtomicBool) -> Result<Verification> {
    let tensors =
        written
            .tensors
            .values()
            .par_bridge()
            .map(|source| {
                if stop.load(Ordering::Relaxed) {
                    Err(interrupted())
                } else {
                    Ok(check_alone(written, source))
                }
            })
            .collect::<Result<Vec<_>>>()?;
    let order = |check: &TensorCheck| written.tensors.get_index_of(&check.name);
    let mut tensors = tensors;
    tensors.sort_by_key(order);
    let scales = written.activation_scales.values().filter(|raw| raw.shape.iter().all(|&dim| dim == 1));
    let wrong = |name: &String| Some(TensorCheck::failed(name, &wrong_scale(written, name, None)?));
    tensors.extend(scales.filter_map(|raw| wrong(&raw.name)));
    Ok(Verification { tensors, missing_record: None })
}

fn check_alone(written: &Checkpoint, source: &Source) -> TensorCheck {
    let [rows, cols] = source.rows_cols();
    let float = cols > 0 && !matches!(&source.stored, Stored::Dense(raw) if !raw.dtype.is_float());
    let size = (CHUNK_ELEMENTS / cols.max(1)).max(1);
    let mut found = NonFinite::default();
    let mut failure = None;
    let mut values = Vec::new();
    for start in (0..if float { rows } else { 0 }).step_by(size) {
        let range = start..(start + size).min(rows);
        values.resize(range.len() * cols, 0.0);
        match written.read_rows(source, range.clone(), &mut values) {
            Ok(()) => found.add(NonFinite::count(&values)),
            Err(error) => failure = Some(error.to_string()),
        }
        written.release(source, range);
    }
    if !found.none() {
        failure = Some(format!("{} NaN and {} infinities", found.nan, found.inf));
    }
    TensorCheck { name: source.name.clone(), stored: source.stored_as(), failure, ..TensorCheck::default() }
}
