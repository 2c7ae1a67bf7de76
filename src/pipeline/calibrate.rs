//! Statistics of a model as it is: its blocks are run over the calibration set one after the other, and what is known of
//! the inputs of each block's linears is written before the next one is read. Memory holds one block and its statistics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocks::{BlockReport, Material, Runner};
use super::journal::Journal;
use super::made::Made;
use super::output::Workspace;
use super::{Options, input_digest};
use crate::calib::imatrix::{self, Imatrix};
use crate::calib::observe::{Seen, Watch};
use crate::calib::store::{self, INDEX_FILE, Index, Store};
use crate::calib::{Drawn, Known, Samples};
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::BlockLayout;
use crate::plan::Plan;
use crate::plan::SINGLE_FILE_NAME;
use crate::stage::{Scope, Stage};
use crate::statistics::{Needs, Statistics};

/// What is to be gathered, and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Survey<'a> {
    /// What the model reads.
    pub samples: &'a Samples,
    /// Experts that fewer tokens are sent to are shown all tokens instead.
    pub expert_tokens: u64,
    /// What is kept.
    pub needs: Needs,
    /// The folder of statistics; see [`store`].
    pub folder: Option<&'a Path>,
    /// The importance matrix, in llama.cpp's form; see [`imatrix`]. At least one of the two.
    pub imatrix: Option<&'a Path>,
}

/// Gathers statistics, and publishes them. An interrupted run is gone on from, as with [`super::run`].
///
/// # Errors
/// An architecture that llmc cannot run, or for an importance matrix one without a GGUF form; inputs that are not finite;
/// whatever reading and writing meet.
pub fn calibrate(
    survey: &Survey,
    checkpoint: &Arc<Checkpoint>,
    options: &Options,
) -> Result<Vec<BlockReport>> {
    if survey.imatrix.is_some() {
        imatrix::architecture(checkpoint)?;
    }
    let sequences = &survey.samples.sequences;
    let material = Material { sequences, expert_tokens: survey.expert_tokens, known: None };
    let ends = Made::default();
    let runner = Runner::new(checkpoint, material, &ends, false, options)?;
    let model = input_digest(checkpoint, options.interrupted)?;
    let index = Index::new(&model, runner.layouts.len(), survey.needs, survey.samples);
    let key = key(&index, survey.expert_tokens);
    let open = |target: &Path, single: bool| {
        let workspace = Workspace::open(target, single)?;
        let journal = Journal::keyed(&workspace, &key, || true, options.resume)?;
        Ok((workspace, journal))
    };
    let folder = survey.folder.map(|folder| open(folder, false)).transpose()?;
    let file = survey.imatrix.map(|file| open(file, true)).transpose()?;
    let (workspace, journal) = folder.as_ref().or(file.as_ref()).expect("something is to be written");
    let reports = runner.each_block(workspace, &[journal], false, |index, input, output| {
        let watch = Watch { needs: survey.needs, ..Watch::default() };
        let gathered = runner.gather(index, &runner.weights(), &input[0], watch, Some(&output[0]))?;
        write_block(workspace, checkpoint, index, &runner.layouts[index], survey.needs, &gathered.seen)?;
        Ok(BlockReport { experts: gathered.experts, ..BlockReport::of(index) })
    })?;
    workspace.write(INDEX_FILE, index.to_json().as_bytes())?;
    if let Some((file, _)) = &file {
        let imatrix = importance(workspace, &index, survey.samples, &runner)?;
        file.write(SINGLE_FILE_NAME, &imatrix.encode(checkpoint)?)?;
    }
    [folder, file].iter().flatten().try_for_each(|(workspace, _)| workspace.publish())?;
    Ok(reports)
}

/// Opens what an earlier run has gathered, and checks that it is of this model, known by its digest, and has what the plan's
/// methods need.
///
/// # Errors
/// See [`Known::open`].
pub fn recall(paths: &[PathBuf], plan: &Plan, checkpoint: &Arc<Checkpoint>, model: &str) -> Result<Known> {
    let stages = &plan.request.stages;
    let weighed = matches!(stages.first(), Some(Stage::Quantize(method)) if method.scope() == Scope::Rows);
    let first = if weighed { Needs::IMPORTANCE } else { Needs::default() };
    let needs = stages.iter().fold(first, |needs, stage| needs.union(stage.needs()));
    let blocks = CheckpointWeights(Arc::clone(checkpoint)).model()?.layers.len();
    Known::open(paths, checkpoint, model, blocks, needs)
}

/// Tells work apart that must not be gone on from with another: blake3 over all that statistics depend on.
fn key(index: &Index, expert_tokens: u64) -> String {
    let text = format!("{}\n{expert_tokens}\n{}", env!("CARGO_PKG_VERSION"), index.to_json());
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Writes a block's file. Inputs that no token has reached are there too, as sums of none.
fn write_block(
    workspace: &Workspace,
    checkpoint: &Checkpoint,
    index: usize,
    layout: &BlockLayout,
    needs: Needs,
    seen: &Seen,
) -> Result<()> {
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
    workspace.write_with(&store::file_name(index), |file| {
        store::encode(&inputs, |bytes| std::io::Write::write_all(file, bytes))
    })
}

/// The importance matrix of statistics that lie in a workspace: of the linears that have a name in GGUF.
fn importance(workspace: &Workspace, index: &Index, samples: &Samples, runner: &Runner) -> Result<Imatrix> {
    let arch = imatrix::architecture(&runner.checkpoint)?;
    let folder = [workspace.partial().to_owned()];
    let store = Store::open(&folder, &index.model, index.blocks, Needs::IMPORTANCE)?;
    let longest = samples.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut imatrix = Imatrix {
        datasets: samples.sources.iter().map(|Drawn { source, .. }| source.clone()).collect(),
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
