//! The one loop that moves tensors from a checkpoint through a method to a format.
//!
//! Work is cut into chunks: row ranges of about [`CHUNK_ELEMENTS`] weights, taken in order by the threads of the pool.
//! Each chunk is read, quantized, laid out and written to its place by itself, so that memory is a few chunks, whatever
//! the size of the checkpoint, and the bytes do not depend on the number of threads.

mod digest;
mod gather;
mod journal;
mod output;
mod verify;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::ProgressBar;
use ndarray::Array2;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::export::{Format, Output, Piece};
use crate::io::Checkpoint;
use crate::method::{Block, Linear, Method};
use crate::numerics::{Extent, Scheme, convert};
use crate::plan::{Action, Plan, Step};
use crate::tensor::{DType, Weight};

pub use digest::{input_digest, provenance};
use gather::{NonFinite, gather, raw_runs};
use journal::Journal;
pub use output::refuse_input_as_output;
use output::{OutputFiles, Workspace};
pub use verify::{TensorCheck, Verification, recorded_recipe, verify, verify_alone};

/// Weights per chunk: 1 MiB in f32, what a core's second-level cache holds.
const CHUNK_ELEMENTS: usize = 1 << 18;

/// How to run a plan.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Replace an output that is already there.
    pub overwrite: bool,
    /// Go on from what an interrupted run left; otherwise start afresh.
    pub resume: bool,
    /// Set by a signal handler: stop after the chunks in hand, keep what is finished.
    pub interrupted: &'a AtomicBool,
    /// Advanced by input bytes.
    pub progress: &'a ProgressBar,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Steps that an earlier, interrupted run had finished.
    pub resumed: usize,
    /// Tensors with NaN or infinities that were let pass: (name, NaN, infinities).
    pub nonfinite: Vec<(String, usize, usize)>,
}

/// Carries out a plan and publishes the result at `target`, with `documents` (name, content) beside the weights.
///
/// # Errors
/// Whatever reading, quantizing and writing meet. What was finished stays in `target` + `.partial`, and the same command
/// goes on from there.
pub fn run(
    plan: &Plan,
    checkpoint: &Checkpoint,
    target: &Path,
    documents: &[(String, Vec<u8>)],
    options: &Options,
) -> Result<Outcome> {
    let format = plan.request.format;
    let workspace = Workspace::open(target, format.single_file(), options)?;
    let result = fill(&workspace, plan, checkpoint, documents, options);
    match &result {
        Ok(_) => workspace.publish()?,
        // Only these leave something that the same command could go on from.
        Err(Error::Io { .. } | Error::Interrupted { .. } | Error::Busy { .. }) => {}
        Err(_) => workspace.discard()?,
    }
    result
}

/// Makes the whole output in the workspace.
fn fill(
    workspace: &Workspace,
    plan: &Plan,
    checkpoint: &Checkpoint,
    documents: &[(String, Vec<u8>)],
    options: &Options,
) -> Result<Outcome> {
    let format = plan.request.format;
    let layout = format.files(plan, checkpoint)?;
    let journal = Journal::open(workspace, &layout)?;
    let files = OutputFiles::create(workspace, &layout, plan)?;
    let resumed = journal.finished();
    let state = Run::new(plan, checkpoint, files, journal, options)?;
    let nonfinite = state.stream()?;
    state.files.sync()?;
    let own = [format.side_files(plan, checkpoint)?, documents.to_vec()].concat();
    workspace.write_beside(checkpoint, format, &own)?;
    Ok(Outcome { resumed, nonfinite })
}

/// Anonymous memory that a run of this plan needs at most, in bytes: the chunks in hand, and what the process itself takes.
pub fn peak_memory(plan: &Plan, threads: usize) -> u64 {
    const PROCESS: u64 = 24 << 20;
    const BYTES_PER_ELEMENT: u64 = 4 + 1 + 1;
    let largest = plan.steps.iter().map(|step| {
        let [rows, cols] = step.rows_cols();
        (chunk_rows(plan.request.format, step).min(rows) * cols) as u64
    });
    PROCESS + threads as u64 * BYTES_PER_ELEMENT * largest.max().unwrap_or(0)
}

/// Rows of one step.
#[derive(Debug, Clone, PartialEq)]
struct Chunk {
    step: usize,
    rows: Range<usize>,
}

/// Rows per chunk: about [`CHUNK_ELEMENTS`], in multiples that scheme and format can start at.
fn chunk_rows(format: &dyn Format, step: &Step) -> usize {
    let [_, cols] = step.rows_cols();
    let multiple = match &step.action {
        Action::Quantize(scheme) => lcm(scheme.row_multiple(), format.row_multiple(scheme)),
        Action::Store(_) => 1,
    };
    (CHUNK_ELEMENTS / cols.max(1)).max(1).next_multiple_of(multiple)
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a.max(1)
    };
    (a / gcd(a, b) * b).max(1)
}

/// The chunks of a step; one empty chunk for a tensor without rows, so that it is finished like any other.
fn chunks_of(format: &dyn Format, index: usize, step: &Step) -> impl Iterator<Item = Chunk> + use<> {
    let rows = if step.elements() == 0 { 0 } else { step.rows_cols()[0] };
    let size = chunk_rows(format, step);
    (0..rows.div_ceil(size).max(1))
        .map(move |i| Chunk { step: index, rows: (i * size).min(rows)..((i + 1) * size).min(rows) })
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    checkpoint: &'a Checkpoint,
    files: OutputFiles,
    journal: Journal,
    extents: Extents,
    remaining: Vec<AtomicUsize>,
    options: &'a Options<'a>,
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        checkpoint: &'a Checkpoint,
        files: OutputFiles,
        journal: Journal,
        options: &'a Options,
    ) -> Result<Self> {
        let extents = Extents::new(plan, checkpoint, options.interrupted)?;
        let format = plan.request.format;
        let remaining =
            plan.steps.iter().map(|step| AtomicUsize::new(chunks_of(format, 0, step).count())).collect();
        Ok(Run { plan, checkpoint, files, journal, extents, remaining, options })
    }

    /// Processes every chunk that the journal does not have; returns what was not finite.
    fn stream(&self) -> Result<Vec<(String, usize, usize)>> {
        let format = self.plan.request.format;
        let todo = self.plan.steps.iter().enumerate().filter(|(index, step)| {
            let finished = self.journal.has(*index);
            if finished {
                self.options.progress.inc(input_bytes(self.checkpoint, &step.output));
            }
            !finished
        });
        let counts: HashMap<usize, NonFinite> = todo
            .flat_map(|(index, step)| chunks_of(format, index, step))
            .par_bridge()
            .map(|chunk| {
                let found = self.process(&chunk)?;
                self.finish(&chunk)?;
                Ok((chunk.step, found))
            })
            .filter(|result| !matches!(result, Ok((_, found)) if found.none()))
            .try_fold(HashMap::new, |mut counts: HashMap<usize, NonFinite>, result| {
                let (step, found) = result?;
                counts.entry(step).or_default().add(found);
                Ok::<_, Error>(counts)
            })
            .try_reduce(HashMap::new, |mut all, counts| {
                counts.into_iter().for_each(|(step, found)| all.entry(step).or_default().add(found));
                Ok(all)
            })?;
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(step, _)| *step);
        Ok(counts
            .into_iter()
            .map(|(step, f)| (self.plan.steps[step].output.name.clone(), f.nan, f.inf))
            .collect())
    }

    fn process(&self, chunk: &Chunk) -> Result<NonFinite> {
        if self.options.interrupted.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        let step = &self.plan.steps[chunk.step];
        match &step.action {
            Action::Store(dtype) => self.store(step, chunk, *dtype),
            Action::Quantize(scheme) => self.quantize(step, chunk, scheme),
        }
    }

    fn store(&self, step: &Step, chunk: &Chunk, dtype: DType) -> Result<NonFinite> {
        let mut values = Vec::new();
        let mut found = NonFinite::default();
        if dtype.is_float() && !matches!(dtype, DType::Block(_)) {
            gather(self.checkpoint, &step.output, chunk.rows.clone(), &mut values)?;
            found = self.check_finite(step, &values)?;
        }
        if let Some(runs) = raw_runs(self.checkpoint, &step.output, chunk.rows.clone(), dtype)? {
            let mut offset = (chunk.rows.start * row_bytes(step, dtype)) as u64;
            for run in runs {
                self.files.write(chunk.step, 0, offset, run)?;
                offset += run.len() as u64;
            }
            return Ok(found);
        }
        let mut bytes = Vec::new();
        convert::from_f32(dtype, &values, &mut bytes);
        self.files.write(chunk.step, 0, (chunk.rows.start * row_bytes(step, dtype)) as u64, &bytes)?;
        Ok(found)
    }

    fn quantize(&self, step: &Step, chunk: &Chunk, scheme: &Scheme) -> Result<NonFinite> {
        let mut values = Vec::new();
        gather(self.checkpoint, &step.output, chunk.rows.clone(), &mut values)?;
        let found = self.check_finite(step, &values)?;
        if !found.none() {
            values.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        }
        let extent = self.extents.of(chunk.step, step);
        let method = self.plan.request.method.method;
        let weight = quantize_rows(method, step, scheme, extent, chunk.rows.len(), values)?;
        let Weight::Quantized(q) = weight else { unreachable!("a quantization method returns codes") };
        let mut sink =
            |part: usize, offset: u64, bytes: &[u8]| self.files.write(chunk.step, part, offset, bytes);
        self.plan.request.format.encode(&q, chunk.rows.start, &step.parts, &mut sink)?;
        Ok(found)
    }

    fn check_finite(&self, step: &Step, values: &[f32]) -> Result<NonFinite> {
        let found = NonFinite::count(values);
        if found.none() || self.plan.recipe.allow_nonfinite {
            return Ok(found);
        }
        let [rows, _] = step.rows_cols();
        let mut all = Vec::new();
        let mut total = NonFinite::default();
        for row in 0..rows {
            gather(self.checkpoint, &step.output, row..row + 1, &mut all)?;
            total.add(NonFinite::count(&all));
        }
        Err(Error::malformed_tensor(
            &self.checkpoint.path,
            &step.output.name,
            "finite weights",
            format!("{} NaN and {} infinities among {} values", total.nan, total.inf, step.elements()),
            "the checkpoint is probably damaged: compare its checksum with the publisher's; --allow-nonfinite takes such values as 0",
        ))
    }

    /// Gives the input pages of a chunk back to the system: chunk by chunk where its rows are consecutive in one source,
    /// and else with the step's last chunk.
    fn release(&self, step: &Step, chunk: &Chunk) {
        let release = |piece: &Piece, rows: Range<usize>| {
            if let Some(source) = self.checkpoint.tensors.get(&piece.source) {
                self.checkpoint.release(source, rows);
            }
        };
        match step.output.pieces.as_slice() {
            [piece] if !step.output.transform.permutes_rows() => {
                release(piece, piece.rows.start + chunk.rows.start..piece.rows.start + chunk.rows.end);
            }
            pieces if self.remaining[chunk.step].load(Ordering::Relaxed) == 1 => {
                pieces.iter().for_each(|piece| release(piece, piece.rows.clone()));
            }
            _ => {}
        }
    }

    /// Counts the chunk as done; the step's last one is journaled.
    fn finish(&self, chunk: &Chunk) -> Result<()> {
        let step = &self.plan.steps[chunk.step];
        self.release(step, chunk);
        let [rows, _] = step.rows_cols();
        let share = chunk.rows.len() as u64 * input_bytes(self.checkpoint, &step.output) / rows.max(1) as u64;
        self.options.progress.inc(share);
        if self.remaining[chunk.step].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.journal.done(chunk.step, step.bytes(), &self.files)?;
        }
        Ok(())
    }
}

/// Runs a method on rows of one linear.
fn quantize_rows(
    method: &dyn Method,
    step: &Step,
    scheme: &Scheme,
    extent: Option<Extent>,
    rows: usize,
    values: Vec<f32>,
) -> Result<Weight> {
    let [_, cols] = step.rows_cols();
    let dense = Array2::from_shape_vec((rows, cols), values).expect("gather returns rows x cols values");
    let linear = Linear {
        name: step.output.name.clone(),
        scheme: *scheme,
        extent,
        importance: None,
        weight: Weight::Dense(dense),
    };
    let mut block = Block { linears: vec![linear] };
    method.apply(&mut block)?;
    Ok(block.linears.pop().expect("methods keep the linears of a block").weight)
}

fn row_bytes(step: &Step, dtype: DType) -> usize {
    let [_, cols] = step.rows_cols();
    cols / dtype.block_elements() * dtype.block_bytes()
}

fn interrupted() -> Error {
    Error::Interrupted { hint: "run the same command again: it goes on from the last finished tensor".into() }
}

/// Bytes of the input that an output is made from.
fn input_bytes(checkpoint: &Checkpoint, output: &Output) -> u64 {
    let piece_bytes = |piece: &Piece| {
        let source = checkpoint.tensors.get(&piece.source)?;
        let [rows, _] = crate::export::rows_cols(&source.shape);
        Some(source.stored_bytes() * piece.rows.len() as u64 / rows.max(1) as u64)
    };
    output.pieces.iter().filter_map(piece_bytes).sum()
}

/// Total input bytes of a plan: the length of its progress bar.
pub fn total_input_bytes(plan: &Plan, checkpoint: &Checkpoint) -> u64 {
    plan.steps.iter().map(|step| input_bytes(checkpoint, &step.output)).sum()
}

/// The extents of the tensors whose schemes need them, fused groups united.
struct Extents {
    by_step: HashMap<usize, Extent>,
    by_group: HashMap<usize, Extent>,
}

impl Extents {
    fn new(plan: &Plan, checkpoint: &Checkpoint, interrupted_flag: &AtomicBool) -> Result<Extents> {
        let format = plan.request.format;
        let needing =
            plan.steps.iter().enumerate().filter(
                |(_, step)| matches!(&step.action, Action::Quantize(scheme) if scheme.needs_extent()),
            );
        let chunks = needing.flat_map(|(index, step)| chunks_of(format, index, step));
        let by_step = chunks
            .par_bridge()
            .map(|chunk| {
                if interrupted_flag.load(Ordering::Relaxed) {
                    return Err(interrupted());
                }
                let mut values = Vec::new();
                gather(checkpoint, &plan.steps[chunk.step].output, chunk.rows, &mut values)?;
                values.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
                Ok((chunk.step, Extent::of(&values)))
            })
            .try_fold(HashMap::new, |mut extents, result| {
                let (step, extent) = result?;
                unite(&mut extents, step, extent);
                Ok::<_, Error>(extents)
            })
            .try_reduce(HashMap::new, |mut all, extents| {
                extents.into_iter().for_each(|(step, extent)| unite(&mut all, step, extent));
                Ok(all)
            })?;
        let mut by_group = HashMap::new();
        for (&step, &extent) in &by_step {
            if let Some(group) = plan.steps[step].fused {
                unite(&mut by_group, group, extent);
            }
        }
        Ok(Extents { by_step, by_group })
    }

    fn of(&self, index: usize, step: &Step) -> Option<Extent> {
        let fused = step.fused.and_then(|group| self.by_group.get(&group));
        fused.or_else(|| self.by_step.get(&index)).copied()
    }
}

fn unite(extents: &mut HashMap<usize, Extent>, key: usize, extent: Extent) {
    extents.entry(key).and_modify(|known| *known = known.union(extent)).or_insert(extent);
}
