//! One run: the plans of one or several outputs carried out, and the results published.

use std::collections::HashSet;
use std::sync::Arc;

use indicatif::ProgressBar;

use super::blocks::{BlockLoop, BlockReport, CalibrationInput, ends};
use super::options::{Options, Outcome, Target};
use super::output::{AdapterFile, Digests, Journal, OutputFiles, RECORD, Record, Workspace};
use super::stream::{BlockResult, NonFinites, TensorWriter, chunk_rows, input_bytes, refuse_long_rows};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::plan::Plan;
use crate::recipe::PerFormat;

/// A target in work.
struct Output<'a> {
    target: Target<'a>,
    workspace: Workspace,
    writer: TensorWriter<'a>,
}

/// Carries out the plans of several targets in one go, and publishes the results. With calibration, the recipe of the
/// primary target is carried out block by block, and the companions store its codes;
/// [`agree`](crate::plan::agree) tells whether they can.
///
/// # Errors
/// The errors of reading, quantizing and writing. Finished tensors stay in `path` + `.partial`, and the same command goes
/// on from there.
pub fn run(
    targets: &PerFormat<Target>,
    checkpoint: &Arc<Checkpoint>,
    calibration: Option<CalibrationInput>,
    options: &Options,
) -> Result<Outcome> {
    targets.all().try_for_each(|target| refuse_long_rows(target.plan))?;
    let corrects = |target: &Target| target.plan.tensors.iter().any(|tensor| tensor.corrected);
    let recorded = calibration.is_some() || targets.all().any(corrects);
    let inputs = inputs(checkpoint, calibration.as_ref());
    let outputs =
        targets.as_ref().try_map(|target| Output::open(*target, checkpoint, &inputs, recorded, options))?; // locks the journals until all is published
    let result = fill(&outputs, checkpoint, calibration, options);
    match &result {
        Ok(_) => outputs.all().try_for_each(|output| output.workspace.publish())?,
        // The same command can resume these.
        Err(Error::Io { .. } | Error::Interrupted { .. }) => {}
        Err(_) if recorded => {}
        Err(_) => outputs.all().try_for_each(|output| output.workspace.discard())?,
    }
    result
}

/// The identity of everything that a run reads besides the weights: config.json and the calibration data.
fn inputs(checkpoint: &Checkpoint, calibration: Option<&CalibrationInput>) -> String {
    let mut hasher = blake3::Hasher::new();
    for sequence in calibration.map(|input| input.sequences).unwrap_or_default() {
        let end = [u32::MAX];
        for token in sequence.iter().chain(&end) {
            hasher.update(&token.to_le_bytes());
        }
    }
    let prior = calibration.and_then(|input| input.prior);
    hasher.update(prior.map_or("", |prior| prior.digest.as_str()).as_bytes());
    hasher.update(checkpoint.config_text().as_bytes());
    hasher.finalize().to_hex().to_string()
}

impl<'a> Output<'a> {
    /// Opens the workspace of a target, with all its files. If it is `recorded`, digests of its quantized tensors are kept.
    fn open(
        target: Target<'a>,
        checkpoint: &'a Arc<Checkpoint>,
        inputs: &str,
        recorded: bool,
        options: &'a Options,
    ) -> Result<Output<'a>> {
        let Target { plan, path, .. } = target;
        let mut layout = plan.request.format.files(&plan.contents(), checkpoint)?;
        let adapter = AdapterFile::plan(plan, checkpoint, &mut layout)?;
        let workspace = Workspace::open(path, plan.request.format.capabilities().single_file)?;
        let mut journal = Journal::open(&workspace, &layout, inputs, options.resume)?;
        tracing::info!(partial = %workspace.partial().display(), files = layout.len(), bytes = plan.bytes(), "writing");
        let files = OutputFiles::create(&workspace, &layout, plan)?;
        let changed =
            journal.keep_intact(&files, |tensor| files.stored_checksum(tensor, &plan.tensors[tensor]))?;
        if changed > 0 {
            let partial = workspace.partial().display();
            tracing::warn!(
                "{partial}: {changed} tensors changed since they were written: they are made again"
            );
        }
        let mut writer = TensorWriter::new(plan, checkpoint, files, journal, adapter, options);
        writer.digests = recorded.then(Digests::default);
        Ok(Output { target, workspace, writer })
    }

    /// Writes the tensors that no block has, and the files beside the weights.
    fn finish(
        &self,
        ends: &BlockResult,
        in_blocks: &HashSet<usize>,
        blocks: &[BlockReport],
    ) -> Result<NonFinites> {
        let (plan, checkpoint) = (self.target.plan, self.writer.checkpoint);
        let rest =
            (0..plan.tensors.len()).filter(|tensor| !in_blocks.contains(tensor) && !self.finished(*tensor));
        let nonfinite = self.writer.stream(rest, ends)?;
        self.writer.files.sync()?;
        let format = plan.request.format;
        let mut own =
            [format.side_files(&plan.contents(), checkpoint)?, self.target.documents.to_vec()].concat();
        if self.writer.digests.is_some() {
            let mut record = Record::of(blocks, format.name());
            record.digests.extend(self.writer.take_digests().into_iter().flat_map(|(_, digests)| digests));
            if let Some(adapter) = &self.writer.adapter {
                let config = adapter.config(checkpoint, &self.target.path.display().to_string());
                record.files = adapter.digests(&config, &self.writer.files)?;
                own.push(config);
            }
            own.push((RECORD.to_owned(), crate::json::pretty(&serde_json::json!(record))));
        }
        self.workspace.write_beside(checkpoint, &own)?;
        tracing::info!(documents = own.len(), "written and flushed");
        Ok(nonfinite)
    }

    /// Returns true if a tensor needs no more work. A tensor that a stopped run has written is written once more if its
    /// digest is recorded.
    fn finished(&self, tensor: usize) -> bool {
        let recorded = self.target.plan.tensors[tensor].is_recorded();
        self.writer.journal.has(tensor) && !(recorded && self.writer.digests.is_some())
    }
}

/// Fills the workspaces with the whole outputs.
fn fill(
    outputs: &PerFormat<Output>,
    checkpoint: &Arc<Checkpoint>,
    calibration: Option<CalibrationInput>,
    options: &Options,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for output in outputs.all() {
        let (tensors, bytes) =
            skip_finished(output.target.plan, checkpoint, &output.writer.journal, options.progress);
        outcome.resumed += tensors;
        outcome.resumed_bytes += bytes;
    }
    let ends = ends(&outputs.primary.target.plan.request, checkpoint)?;
    let writers = outputs.as_ref().map(|output| &output.writer);
    writers.all().try_for_each(|writer| writer.find_extents(&ends))?;
    let blocks = calibration.map(|input| BlockLoop::new(&writers, checkpoint, input, &ends, options));
    let blocks = blocks.transpose()?;
    if let Some(blocks) = &blocks {
        writers.all().try_for_each(|writer| blocks.refuse_unreached(writer))?;
        outcome.blocks = blocks.run(&writers, &outputs.primary.workspace)?;
        outcome.nonfinite.extend(outcome.blocks.iter().flat_map(|block| block.nonfinite.clone()));
    }
    for output in outputs.all() {
        let in_blocks = blocks.as_ref().map(|blocks| blocks.all_tensors(&output.writer)).unwrap_or_default();
        outcome.nonfinite.extend(output.finish(&ends, &in_blocks, &outcome.blocks)?);
    }
    Ok(outcome)
}

/// Estimates the anonymous memory of a run without calibration, in bytes: a chunk for each thread, and the process itself.
pub(crate) fn peak_memory(plan: &Plan, threads: usize) -> u64 {
    const PROCESS: u64 = 24 << 20;
    const BYTES_PER_ELEMENT: u64 = 4 + 1 + 1;
    let largest = plan.tensors.iter().map(|tensor| {
        let [rows, cols] = tensor.rows_cols();
        (chunk_rows(plan.request.format, tensor).min(rows) * cols) as u64
    });
    PROCESS + threads as u64 * BYTES_PER_ELEMENT * largest.max().unwrap_or(0)
}

/// Moves the progress bar past the tensors that an earlier run finished. Returns their number and their input bytes.
fn skip_finished(
    plan: &Plan,
    checkpoint: &Checkpoint,
    journal: &Journal,
    progress: &ProgressBar,
) -> (usize, u64) {
    let finished = plan.tensors.iter().enumerate().filter(|(index, _)| journal.has(*index));
    let bytes = finished.map(|(_, tensor)| input_bytes(checkpoint, &tensor.output)).sum();
    if journal.finished() > 0 {
        tracing::info!(
            finished = journal.finished(),
            of = plan.tensors.len(),
            "going on from an interrupted run"
        );
        progress.set_position(bytes);
        progress.reset_elapsed();
    }
    (journal.finished(), bytes)
}
