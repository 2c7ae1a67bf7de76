//! The one loop that moves tensors from a checkpoint through a method to a format.
//!
//! Work is cut into chunks: row ranges of about [`chunks::CHUNK_ELEMENTS`] weights, taken in order by the threads of the pool.
//! Each chunk is read, quantized, laid out and written to its place by itself, so that memory is a few chunks, whatever
//! the size of the checkpoint, and the bytes do not depend on the number of threads.

mod chunks;
mod digest;
mod extents;
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
use crate::export::{Output, OutputFile, Piece};
use crate::io::Checkpoint;
use crate::method::{Block, Linear, Method};
use crate::numerics::{Extent, Scheme, convert};
use crate::plan::{Action, Plan, Step};
use crate::tensor::{DType, Weight};

use chunks::{Chunk, chunk_rows, chunks_of, refuse_long_rows};
pub use digest::{input_digest, provenance};
use extents::Extents;
use gather::{NonFinite, clear_nonfinite, gather, raw_runs};
use journal::Journal;
pub use output::check_target;
use output::{OutputFiles, Workspace};
pub use verify::{TensorCheck, Verification, recorded_recipe, verify, verify_alone};

/// How to run a plan.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
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
    /// Input bytes of those.
    pub resumed_bytes: u64,
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
    refuse_long_rows(plan)?;
    let layout = format.files(plan, checkpoint)?;
    let workspace = Workspace::open(target, format.single_file())?;
    let journal = Journal::open(&workspace, &layout, options.resume)?; // its lock is held until all is published
    tracing::info!(partial = %workspace.partial().display(), files = layout.len(), bytes = plan.bytes(), "writing");
    let result = fill(&workspace, &layout, &journal, plan, checkpoint, documents, options);
    match &result {
        Ok(_) => workspace.publish()?,
        // These leave something that the same command can go on from.
        Err(Error::Io { .. } | Error::Interrupted { .. }) => {}
        Err(_) => workspace.discard()?,
    }
    result
}

/// Makes the whole output in the workspace.
fn fill(
    workspace: &Workspace,
    layout: &[OutputFile],
    journal: &Journal,
    plan: &Plan,
    checkpoint: &Checkpoint,
    documents: &[(String, Vec<u8>)],
    options: &Options,
) -> Result<Outcome> {
    let format = plan.request.format;
    let files = OutputFiles::create(workspace, layout, plan)?;
    let (resumed, resumed_bytes) = skip_finished(plan, checkpoint, journal, options.progress);
    let state = Run::new(plan, checkpoint, files, journal, options)?;
    let nonfinite = state.stream()?;
    state.files.sync()?;
    let own = [format.side_files(plan, checkpoint)?, documents.to_vec()].concat();
    workspace.write_beside(checkpoint, format, &own)?;
    tracing::info!(files = layout.len(), documents = own.len(), "written and flushed");
    Ok(Outcome { resumed, resumed_bytes, nonfinite })
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

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    checkpoint: &'a Checkpoint,
    files: OutputFiles,
    journal: &'a Journal,
    extents: Extents,
    remaining: Vec<AtomicUsize>,
    options: &'a Options<'a>,
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        checkpoint: &'a Checkpoint,
        files: OutputFiles,
        journal: &'a Journal,
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
        let todo = self.plan.steps.iter().enumerate().filter(|(index, _)| !self.journal.has(*index));
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
        let offset = (chunk.rows.start * row_bytes(step, dtype)) as u64;
        if let Some(runs) = raw_runs(self.checkpoint, &step.output, chunk.rows.clone(), dtype)? {
            let found = runs.iter().map(|run| NonFinite::count_stored(dtype, run)).sum();
            self.check_finite(step, found)?;
            self.write_runs(chunk.step, offset, &runs)?;
            return Ok(found);
        }
        let mut values = Vec::new();
        gather(self.checkpoint, &step.output, chunk.rows.clone(), &mut values)?;
        let found = self.check_finite(step, NonFinite::count(&values))?;
        let mut bytes = Vec::new();
        convert::from_f32(dtype, &values, &mut bytes);
        self.write_runs(chunk.step, offset, &[&bytes])?;
        Ok(found)
    }

    /// Writes runs of bytes one after the other into a step's only part.
    fn write_runs(&self, step: usize, mut offset: u64, runs: &[&[u8]]) -> Result<()> {
        runs.iter().try_for_each(|run| {
            self.files.write(step, 0, offset, run)?;
            offset += run.len() as u64;
            Ok(())
        })
    }

    fn quantize(&self, step: &Step, chunk: &Chunk, scheme: &Scheme) -> Result<NonFinite> {
        let mut values = Vec::new();
        gather(self.checkpoint, &step.output, chunk.rows.clone(), &mut values)?;
        let found = self.check_finite(step, NonFinite::count(&values))?;
        if !found.none() {
            clear_nonfinite(&mut values);
        }
        let extent = self.extents.of(chunk.step, step);
        let method = self.plan.request.method.as_ref();
        let weight = quantize_rows(method, step, scheme, extent, chunk.rows.len(), values)?;
        let Weight::Quantized(q) = weight else { unreachable!("a quantization method returns codes") };
        let mut sink =
            |part: usize, offset: u64, bytes: &[u8]| self.files.write(chunk.step, part, offset, bytes);
        self.plan.request.format.encode(&q, chunk.rows.start, &step.parts, &mut sink)?;
        Ok(found)
    }

    /// Passes on what was found, where it is nothing, or allowed; else counts it in the whole tensor for the error.
    fn check_finite(&self, step: &Step, found: NonFinite) -> Result<NonFinite> {
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
            "the checkpoint is probably damaged: compare its checksum with the publisher's; --allow-nonfinite lets such values pass, as 0 where they are quantized",
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
        self.options.progress.inc(chunk_input_bytes(self.checkpoint, step, chunk));
        if self.remaining[chunk.step].fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::debug!(tensor = step.output.name, stored = %step.action, "finished");
            self.journal.done(chunk.step, step.bytes(), &self.files)?;
        }
        Ok(())
    }
}

/// Says what an earlier run finished, and moves the progress bar past it: (steps, their input bytes).
fn skip_finished(
    plan: &Plan,
    checkpoint: &Checkpoint,
    journal: &Journal,
    progress: &ProgressBar,
) -> (usize, u64) {
    let finished = plan.steps.iter().enumerate().filter(|(index, _)| journal.has(*index));
    let bytes = finished.map(|(_, step)| input_bytes(checkpoint, &step.output)).sum();
    if journal.finished() > 0 {
        tracing::info!(
            finished = journal.finished(),
            of = plan.steps.len(),
            "going on from an interrupted run"
        );
        progress.set_position(bytes);
        progress.reset_eta();
    }
    (journal.finished(), bytes)
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
    let linear = Linear { extent, ..Linear::alone(&step.output.name, *scheme, Weight::Dense(dense)) };
    let mut block = Block { linears: vec![linear], ..Block::default() };
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

/// The chunk's share of them.
fn chunk_input_bytes(checkpoint: &Checkpoint, step: &Step, chunk: &Chunk) -> u64 {
    let [rows, _] = step.rows_cols();
    input_bytes(checkpoint, &step.output) * chunk.rows.len() as u64 / rows.max(1) as u64
}

/// Total input bytes of a plan: the length of its progress bar.
pub fn total_input_bytes(plan: &Plan, checkpoint: &Checkpoint) -> u64 {
    plan.steps.iter().map(|step| input_bytes(checkpoint, &step.output)).sum()
}
