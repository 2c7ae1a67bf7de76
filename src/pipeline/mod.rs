//! The one loop that moves tensors from a checkpoint through a method to a format.
//!
//! Work is cut into chunks: row ranges of about [`chunks::CHUNK_ELEMENTS`] weights, taken in order by the threads of the pool.
//! Each chunk is read, quantized, laid out and written to its place by itself, so that memory is a few chunks, whatever
//! the size of the checkpoint, and the bytes do not depend on the number of threads.

mod adapter;
mod blocks;
mod calibrate;
mod chunks;
mod digest;
mod ends;
mod estimate;
mod extents;
mod fault;
mod gather;
mod journal;
mod made;
mod output;
mod recorded;
mod sensitivity;
mod stream;
mod verify;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::plan::{Action, Plan};

use adapter::AdapterFile;
use blocks::Blocks;
pub use blocks::{BlockReport, ExpertReport, LinearReport, Material};
pub use calibrate::{Survey, calibrate, recall};
use chunks::{chunk_rows, refuse_long_rows};
pub use digest::{input_digest, provenance};
pub use ends::untie;
pub use estimate::{Estimate, estimate};
use journal::Journal;
use made::Made;
pub use output::check_target;
use output::{OutputFiles, Workspace};
use recorded::{Digests, RECORD, Record};
pub use sensitivity::{sensitivity, unmeasured};
use stream::{NonFinites, Run, input_bytes};
pub use verify::{TensorCheck, Verification, recorded_recipe, verify, verify_alone};

/// How to run a plan.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Go on from what an interrupted run left; otherwise start afresh.
    pub resume: bool,
    /// Set by a signal handler: stop after the chunks in hand, keep what is finished.
    pub interrupted: &'a AtomicBool,
    /// Advanced by input bytes.
    pub progress: &'a ProgressBar,
    /// Told what happens in the block loop.
    pub events: &'a (dyn Fn(&Event) + Sync),
}

/// What happens in the block loop.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The loop begins.
    Start {
        /// Blocks that an interrupted run has finished.
        done: usize,
        /// Blocks of the model.
        of: usize,
    },
    /// A linear was quantized.
    Linear {
        /// Its block.
        block: usize,
        /// What became of it.
        linear: &'a LinearReport,
    },
    /// A block is finished and journaled.
    Block {
        /// Its number.
        index: usize,
        /// Blocks of the model.
        of: usize,
    },
}

/// One output to be made.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// What it holds.
    pub plan: &'a Plan,
    /// Where it goes.
    pub path: &'a Path,
    /// What stands beside the weights, besides what the format itself writes: (name, content).
    pub documents: &'a [(String, Vec<u8>)],
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
    /// What was done to each block, where the recipe was carried out block by block.
    pub blocks: Vec<BlockReport>,
}

/// A target being made.
struct Output<'a> {
    target: Target<'a>,
    workspace: Workspace,
    run: Run<'a>,
}

/// Carries out the plans of several targets in one go, and publishes the results. With calibration, the recipe of the
/// first target is carried out block by block; the others store what it makes: [`agree`](crate::plan::agree) tells whether
/// they can.
///
/// # Errors
/// Whatever reading, quantizing and writing meet. What was finished stays in `path` + `.partial`, and the same command
/// goes on from there.
pub fn run(
    targets: &[Target],
    checkpoint: &Arc<Checkpoint>,
    material: Option<Material>,
    options: &Options,
) -> Result<Outcome> {
    targets.iter().try_for_each(|target| refuse_long_rows(target.plan))?;
    let outputs = targets.iter().map(|target| Output::open(*target, checkpoint, material.is_some(), options));
    let outputs = outputs.collect::<Result<Vec<_>>>()?; // the journals' locks are held until all is published
    let result = fill(&outputs, checkpoint, material, options);
    match &result {
        Ok(_) => outputs.iter().try_for_each(|output| output.workspace.publish())?,
        // These leave something that the same command can go on from.
        Err(Error::Io { .. } | Error::Interrupted { .. }) => {}
        Err(_) if material.is_some() => {}
        Err(_) => outputs.iter().try_for_each(|output| output.workspace.discard())?,
    }
    result
}

impl<'a> Output<'a> {
    /// `recorded`: it says what it holds, which the input alone does not tell.
    fn open(
        target: Target<'a>,
        checkpoint: &'a Arc<Checkpoint>,
        recorded: bool,
        options: &'a Options,
    ) -> Result<Output<'a>> {
        let Target { plan, path, .. } = target;
        let mut layout = plan.request.format.files(plan, checkpoint)?;
        let adapter = AdapterFile::plan(plan, checkpoint, &mut layout)?;
        let workspace = Workspace::open(path, plan.request.format.single_file())?;
        let journal = Journal::open(&workspace, &layout, options.resume)?;
        tracing::info!(partial = %workspace.partial().display(), files = layout.len(), bytes = plan.bytes(), "writing");
        let files = OutputFiles::create(&workspace, &layout, plan)?;
        let mut run = Run::new(plan, checkpoint, files, journal, adapter, options);
        run.digests = recorded.then(Digests::default);
        Ok(Output { target, workspace, run })
    }

    /// Writes what no block has, and what stands beside the weights.
    fn finish(
        &self,
        checkpoint: &Checkpoint,
        made: &Made,
        in_blocks: &HashSet<usize>,
        blocks: &[BlockReport],
    ) -> Result<NonFinites> {
        let plan = self.target.plan;
        // What a stopped run has written is written once more where its digest is recorded.
        let digested = |step: usize| {
            self.run.digests.is_some() && matches!(plan.steps[step].action, Action::Quantize(_))
        };
        let finished = |step: usize| self.run.journal.has(step) && !digested(step);
        let rest = (0..plan.steps.len()).filter(|step| !in_blocks.contains(step) && !finished(*step));
        let nonfinite = self.run.stream(rest, made)?;
        self.run.files.sync()?;
        let format = plan.request.format;
        let mut own = [format.side_files(plan, checkpoint)?, self.target.documents.to_vec()].concat();
        if !blocks.is_empty() {
            let mut record = Record::of(blocks, format.name());
            record.digests.extend(self.run.take_digests().into_iter().flat_map(|(_, digests)| digests));
            own.push((RECORD.to_owned(), crate::export::pretty(&serde_json::json!(record))));
        }
        let target = self.target.path.display().to_string();
        own.extend(self.run.adapter.iter().map(|adapter| adapter.config(checkpoint, &target)));
        self.workspace.write_beside(checkpoint, format, &own)?;
        tracing::info!(documents = own.len(), "written and flushed");
        Ok(nonfinite)
    }
}

/// Makes the whole outputs in their workspaces.
fn fill(
    outputs: &[Output],
    checkpoint: &Arc<Checkpoint>,
    material: Option<Material>,
    options: &Options,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for output in outputs {
        let (steps, bytes) =
            skip_finished(output.target.plan, checkpoint, &output.run.journal, options.progress);
        outcome.resumed += steps;
        outcome.resumed_bytes += bytes;
    }
    let ends = ends::ends(&outputs[0].target.plan.request, checkpoint)?;
    let runs: Vec<&Run> = outputs.iter().map(|output| &output.run).collect();
    runs.iter().try_for_each(|run| run.find_extents(&ends))?;
    let blocks =
        material.map(|material| Blocks::new(&runs, checkpoint, material, &ends, options)).transpose()?;
    if let Some(blocks) = &blocks {
        runs.iter().try_for_each(|run| blocks.refuse_unmeasured(run))?;
        outcome.blocks = blocks.run(&runs, &outputs[0].workspace)?;
        outcome.nonfinite.extend(outcome.blocks.iter().flat_map(|block| block.nonfinite.clone()));
    }
    for output in outputs {
        let in_blocks = blocks.as_ref().map(|blocks| blocks.all_steps(&output.run)).unwrap_or_default();
        outcome.nonfinite.extend(output.finish(checkpoint, &ends, &in_blocks, &outcome.blocks)?);
    }
    Ok(outcome)
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

/// Ends a run where the user has asked for it.
fn check_interrupted(options: &Options) -> Result<()> {
    if options.interrupted.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
}

fn interrupted() -> Error {
    Error::Interrupted { hint: "run the same command again: it goes on from the last finished tensor".into() }
}

/// Total input bytes of a plan: the length of its progress bar.
pub fn total_input_bytes(plan: &Plan, checkpoint: &Checkpoint) -> u64 {
    plan.steps.iter().map(|step| input_bytes(checkpoint, &step.output)).sum()
}
