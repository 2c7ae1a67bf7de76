//! Statistics of a model as it is. Its blocks are run over the calibration set one after the other, and the statistics of
//! each block are written before the next block is read. Memory holds one block and its statistics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layouts::layouts;
use super::machine;
use super::report::BlockReport;
use super::runner::{CalibrationInput, Runner};
use crate::backend::Device;
use crate::calib::imatrix::{self, Imatrix};
use crate::calib::observe::{InputStatistics, Watch};
use crate::calib::store::{self, CHECKSUMS, Checksums, INDEX_FILE, Index, Store};
use crate::calib::{PriorStatistics, Samples, SourceSamples};
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::BlockLayout;
use crate::pipeline::options::Options;
use crate::pipeline::output::{Journal, Workspace, input_digest, model_digest};
use crate::pipeline::stream::BlockResult;
use crate::plan::{Action, Plan, SINGLE_FILE_NAME, TensorPlan};
use crate::stage::{Scope, Stage};
use crate::statistics::{Needs, Statistics};

/// The kind of a block's digests: of its file of statistics.
const STATISTICS: &str = "statistics";

/// The statistics to gather, and their outputs.
#[derive(Debug, Clone, Copy)]
pub struct Survey<'a> {
    /// The calibration set.
    pub samples: &'a Samples,
    /// Experts that get fewer tokens than this are shown all tokens instead.
    pub expert_tokens: u64,
    /// The statistics to keep.
    pub needs: Needs,
    /// The folder of statistics; see [`store`].
    pub folder: Option<&'a Path>,
    /// The importance matrix, in llama.cpp's form; see [`imatrix`]. At least one of the two outputs is set.
    pub imatrix: Option<&'a Path>,
}

/// Gathers statistics, and publishes them. The same call resumes an interrupted run, as with
/// [`run`](crate::pipeline::run).
///
/// # Errors
/// An architecture that llmc does not support, or, for an importance matrix, one without a GGUF form; inputs that are not
/// finite; errors of reading and writing.
pub fn calibrate(
    survey: &Survey,
    checkpoint: &Arc<Checkpoint>,
    options: &Options,
) -> Result<Vec<BlockReport>> {
    if survey.imatrix.is_some() {
        imatrix::architecture(checkpoint)?;
    }
    let sequences = &survey.samples.sequences;
    let input = CalibrationInput { sequences, expert_tokens: survey.expert_tokens, prior: None };
    let ends = BlockResult::default();
    let runner = Runner::new(checkpoint, layouts(checkpoint)?, input, &ends, false, options)?;
    let weights = input_digest(checkpoint, options.interrupted)?;
    let model = model_digest(checkpoint, &weights);
    let index = Index::new(&model, runner.layouts.len(), survey.needs, survey.samples);
    let key = key(&index, survey.expert_tokens, options.device);
    let open = |target: &Path, single: bool| {
        let workspace = Workspace::open(target, single)?;
        let journal = Journal::keyed(&workspace, &key, || true, options.resume)?;
        Ok((workspace, journal))
    };
    let folder = survey.folder.map(|folder| open(folder, false)).transpose()?;
    let file = survey.imatrix.map(|file| open(file, true)).transpose()?;
    let (workspace, journal) = folder.as_ref().or(file.as_ref()).expect("something is to be written");
    let reports = runner.each_block(
        workspace,
        &[journal],
        false,
        |report| Ok(report.has_files(workspace)),
        |index, input, output| {
            let watch = Watch { needs: survey.needs, ..Watch::default() };
            let gathered = runner.gather(index, &runner.weights(), &input[0], watch, Some(&output[0]))?;
            let layout = &runner.layouts[index];
            let digest = write_block(workspace, checkpoint, index, layout, survey.needs, &gathered.seen)?;
            let files = BTreeMap::from([(store::file_name(index), digest)]);
            let digests = BTreeMap::from([(STATISTICS.to_owned(), files)]);
            Ok(BlockReport { experts: gathered.experts, digests, ..BlockReport::of(index) })
        },
    )?;
    let mut sums = Checksums::default();
    sums.extend(reports.iter().filter_map(|report| report.digests.get(STATISTICS)).flatten());
    let index_digest = blake3::hash(index.to_json().as_bytes()).to_hex().to_string();
    sums.extend([(&INDEX_FILE.to_owned(), &index_digest)]);
    workspace.write(CHECKSUMS, sums.to_text().as_bytes())?;
    workspace.write(INDEX_FILE, index.to_json().as_bytes())?;
    if let Some((file, _)) = &file {
        let imatrix = importance(workspace, &index, survey.samples, &runner)?;
        file.write(SINGLE_FILE_NAME, &imatrix.encode(checkpoint)?)?;
    }
    [folder, file].iter().flatten().try_for_each(|(workspace, _)| workspace.publish())?;
    Ok(reports)
}

/// Opens the statistics of an earlier run. Checks that they are of this model, `weights` being the digest of its weights, and
/// that they include the needs of the plan's stages.
///
/// # Errors
/// See [`PriorStatistics::open`].
pub(crate) fn recall(
    paths: &[PathBuf],
    plan: &Plan,
    checkpoint: &Arc<Checkpoint>,
    weights: &str,
) -> Result<PriorStatistics> {
    let stages = &plan.request.stages;
    let weighed = matches!(stages.first(), Some(Stage::Quantize(method)) if method.scope() == Scope::Rows);
    let first = if weighed || plan.request.measures_zeros() { Needs::IMPORTANCE } else { Needs::default() };
    let needs = stages.iter().fold(first, |needs, stage| needs.union(stage.needs()));
    let blocks = CheckpointWeights(Arc::clone(checkpoint)).model()?.layers.len();
    let prior = PriorStatistics::open(paths, checkpoint, &model_digest(checkpoint, weights), blocks, needs)?;
    prior.warn_of_left_out(checkpoint, quantized_linears(plan));
    Ok(prior)
}

/// The sources of the linears that a plan quantizes.
fn quantized_linears(plan: &Plan) -> impl Iterator<Item = &str> {
    let quantized = |tensor: &&TensorPlan| tensor.linear && matches!(tensor.action, Action::Quantize(_));
    plan.tensors.iter().filter(quantized).flat_map(TensorPlan::sources)
}

/// The key of the journal: blake3 over everything that the statistics depend on.
fn key(index: &Index, expert_tokens: u64, device: Device) -> String {
    let text = format!(
        "{}\n{expert_tokens}\n{}{}",
        env!("CARGO_PKG_VERSION"),
        machine::key(device),
        index.to_json()
    );
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Writes a block's file, and returns its digest. Inputs without any token are included, as empty sums.
fn write_block(
    workspace: &Workspace,
    checkpoint: &Checkpoint,
    index: usize,
    layout: &BlockLayout,
    needs: Needs,
    seen: &InputStatistics,
) -> Result<String> {
    let mut readers: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for linear in &layout.linears {
        readers.entry(linear.input).or_default().push(&linear.name);
    }
    let statistics = readers.iter().map(|(input, linears)| match &seen.inputs[*input] {
        Some(statistics) => Ok(statistics.clone()),
        None => Ok(Statistics::new(cols(checkpoint, linears[0])?, needs)),
    });
    let statistics = statistics.collect::<Result<Vec<_>>>()?;
    let inputs: Vec<store::Input> = readers
        .values()
        .zip(&statistics)
        .map(|(linears, statistics)| store::Input { linears, statistics })
        .collect();
    workspace.write_with(&store::file_name(index), |sink| store::encode(&inputs, sink))
}

/// The importance matrix of the statistics in a workspace, for the linears that have a name in GGUF.
fn importance(workspace: &Workspace, index: &Index, samples: &Samples, runner: &Runner) -> Result<Imatrix> {
    let arch = imatrix::architecture(&runner.checkpoint)?;
    let folder = [workspace.partial().to_owned()];
    let store = Store::open(&folder, &index.model, index.blocks, Needs::IMPORTANCE)?;
    let longest = samples.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut imatrix = Imatrix {
        datasets: samples.sources.iter().map(|SourceSamples { source, .. }| source.clone()).collect(),
        chunk_count: samples.sequences.len() as u32,
        chunk_size: longest as u32,
        ..Imatrix::default()
    };
    for (number, layout) in runner.layouts.iter().enumerate() {
        let block = store.block(number)?;
        for linear in layout.linears.iter().filter(|linear| arch.place(&linear.name).is_some()) {
            let statistics = block.statistics(&linear.name, cols(&runner.checkpoint, &linear.name)?)?;
            imatrix.linears.insert(linear.name.clone(), statistics);
        }
    }
    Ok(imatrix)
}

fn cols(checkpoint: &Checkpoint, linear: &str) -> Result<usize> {
    Ok(checkpoint.source(linear)?.rows_cols()[1])
}
