//! The block loop: one decoder block of weights in memory at a time, fed with what the compressed blocks before it make of
//! the calibration set.
//!
//! For each block: its weights are read, the recipe's stages rewrite them and replace them by codes, with statistics of
//! inputs that passes over the block gather; the outputs' tensors of the block are written; the compressed block is run
//! once more to make the next one's inputs. Then the journal records it, and all of it is dropped.

mod chain;
mod compress;
mod passes;
mod report;
mod weights;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use report::{BlockReport, ExpertReport, LinearReport};

use super::made::Made;
use super::stream::Run;
use super::{Event, Options, Workspace};
use crate::backend::cpu::{Activations, Cpu};
use crate::engine::Stored;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::model::{self, BlockLayout, Config, Embedding, block_layout};
use crate::numerics::Scheme;
use crate::plan::Action;
use crate::recipe::Request;

use chain::Chain;
use passes::Batches;
use report::Reports;
use weights::Current;

/// What calibration works with.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// Token ids of each sequence.
    pub sequences: &'a [Vec<u32>],
    /// Experts that fewer tokens are sent to are shown all tokens instead.
    pub expert_tokens: u64,
}

/// The loop's surroundings, which no block changes.
pub(super) struct Blocks<'a> {
    checkpoint: Arc<Checkpoint>,
    config: Config,
    layouts: Vec<BlockLayout>,
    /// What each linear becomes, by the name of its weight.
    schemes: HashMap<String, Scheme>,
    /// Linears that share their extent.
    fused: HashMap<String, usize>,
    request: &'a Request,
    batches: Batches<'a>,
    material: Material<'a>,
    /// Whether weights that are not finite are taken as 0.
    allow_nonfinite: bool,
    /// Edits of what is outside the blocks.
    ends: &'a Made,
    options: &'a Options<'a>,
}

impl<'a> Blocks<'a> {
    /// Looks up how the model is made.
    ///
    /// # Errors
    /// An architecture that llmc cannot run, or one whose blocks it cannot take apart.
    pub fn new(
        run: &Run<'a>,
        checkpoint: &Arc<Checkpoint>,
        material: Material<'a>,
        ends: &'a Made,
        options: &'a Options<'a>,
    ) -> Result<Self> {
        let what = || format!("{}: no config.json beside the weights", checkpoint.path.display());
        let config = checkpoint.config.as_ref().ok_or_else(|| {
            Error::unsupported(what(), "calibration runs the model: name the folder with its config.json")
        })?;
        let config = model::configure(config)?;
        let stored = Stored(Arc::clone(checkpoint));
        let layouts = (0..config.layers.len()).map(|block| block_layout(&config, &stored, block));
        let layouts = layouts.collect::<Result<_>>()?;
        let (mut schemes, mut fused) = (HashMap::new(), HashMap::new());
        for step in &run.plan.steps {
            let Action::Quantize(scheme) = step.action else { continue };
            for piece in &step.output.pieces {
                schemes.insert(piece.source.clone(), scheme);
                fused.extend(step.fused.map(|group| (piece.source.clone(), group)));
            }
        }
        let batches = Batches::new(material.sequences);
        let (checkpoint, request) = (Arc::clone(checkpoint), &run.plan.request);
        let allow_nonfinite = run.plan.recipe.allow_nonfinite;
        Ok(Blocks {
            checkpoint,
            config,
            layouts,
            schemes,
            fused,
            request,
            batches,
            material,
            allow_nonfinite,
            ends,
            options,
        })
    }

    /// Carries the recipe out, block by block, from the first that any of the journals does not have.
    pub fn run(&self, runs: &[&Run], workspace: &Workspace) -> Result<Vec<BlockReport>> {
        let trains = self.request.method.trains();
        let done = runs.iter().map(|run| run.journal.blocks()).min().unwrap_or(0);
        let mut reports = Reports::open(workspace, done)?;
        let mut chains = self.start(workspace, &mut reports, trains)?;
        for index in reports.len()..self.layouts.len() {
            let next = self.create(workspace, index + 1, trains)?;
            let (made, report) = self.compress(index, &chains, &next)?;
            for run in runs {
                run.stream(self.steps_of(index, run).into_iter(), &made)?;
            }
            reports.push(report)?;
            chains = next;
            // The next block is made from nothing else: all of it must be on the disk before the old chains go.
            runs.iter().try_for_each(|run| run.files.sync())?;
            chains.iter().try_for_each(Chain::sync)?;
            runs.iter().try_for_each(|run| run.journal.block_done(index))?;
            self.forget(workspace, index);
            (self.options.events)(&Event::Block { index, of: self.layouts.len() });
        }
        self.forget(workspace, self.layouts.len());
        Ok(reports.finish())
    }

    /// The chains that block `reports.len()` begins with: those of an interrupted run, or the embedded tokens.
    fn start(&self, workspace: &Workspace, reports: &mut Reports, trains: bool) -> Result<Vec<Chain>> {
        let open = |path: PathBuf| Chain::open(&path, self.batches.tokens(), self.config.hidden);
        let found = self.paths(workspace, reports.len(), trains).into_iter().map(open);
        match found.collect::<Result<Option<Vec<Chain>>>>()? {
            Some(chains) if reports.len() > 0 => Ok(chains),
            _ => {
                reports.clear()?;
                let chains = self.create(workspace, 0, trains)?;
                self.embed(&chains)?;
                Ok(chains)
            }
        }
    }

    fn embed(&self, chains: &[Chain]) -> Result<()> {
        let backend = Cpu::new(Activations::F32);
        let weights = Current::new(&self.checkpoint, self.ends);
        let embedding = Embedding::load(&backend, &self.config, &weights)?;
        self.batches.embed(&backend, &self.config, &embedding, chains)
    }

    /// The compressed chain's file before a block, and the uncompressed one's where a method needs it.
    fn paths(&self, workspace: &Workspace, block: usize, trains: bool) -> Vec<PathBuf> {
        let names = [format!("activations-{block}.f32"), format!("reference-{block}.f32")];
        names.iter().take(1 + usize::from(trains)).map(|name| workspace.path(name)).collect()
    }

    fn create(&self, workspace: &Workspace, block: usize, trains: bool) -> Result<Vec<Chain>> {
        let paths = self.paths(workspace, block, trains).into_iter();
        paths.map(|path| Chain::create(&path, self.batches.tokens(), self.config.hidden)).collect()
    }

    /// Removes the chains before a block: the next one's are recorded.
    fn forget(&self, workspace: &Workspace, block: usize) {
        for path in self.paths(workspace, block, true) {
            std::fs::remove_file(path).unwrap_or_default(); // not there, where the method needs one chain only
        }
    }

    /// The steps of an output that come from any block.
    pub fn all_steps(&self, run: &Run) -> HashSet<usize> {
        (0..self.layouts.len()).flat_map(|index| self.steps_of(index, run)).collect()
    }

    /// The steps of an output that come from tensors of a block.
    fn steps_of(&self, index: usize, run: &Run) -> Vec<usize> {
        let layout = &self.layouts[index];
        let linears = layout.linears.iter().flat_map(|linear| [Some(&linear.name), linear.bias.as_ref()]);
        let norms = layout.norms.iter().flat_map(|norm| [Some(&norm.weight), norm.bias.as_ref()]);
        let names: HashSet<&String> = linears.chain(norms).flatten().collect();
        let of_block = |index: &usize| {
            run.plan.steps[*index].output.pieces.iter().any(|piece| names.contains(&piece.source))
        };
        (0..run.plan.steps.len()).filter(of_block).collect()
    }
}
