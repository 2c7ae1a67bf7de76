//! The model run block by block over the calibration set, whatever is done to its blocks on the way: the hidden states
//! between two blocks lie in files, and a run that was interrupted goes on from the last block that its journal has.

use std::path::PathBuf;
use std::sync::Arc;

use super::chain::Chain;
use super::machine::Machine;
use super::passes::Batches;
use super::report::{BlockReport, Reports};
use super::weights::Current;
use crate::backend::Backend;
use crate::backend::cpu::{Activations, Cpu};
use crate::calib::Known;
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, Embedding, Model, block_layout};
use crate::pipeline::journal::Journal;
use crate::pipeline::made::Made;
use crate::pipeline::{Event, Options, Workspace};

/// What calibration works with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Material<'a> {
    /// Token ids of each sequence.
    pub sequences: &'a [Vec<u32>],
    /// Experts that fewer tokens are sent to, or none, are shown all tokens instead.
    pub expert_tokens: u64,
    /// Statistics in the place of sequences: then there are none.
    pub known: Option<&'a Known>,
}

/// How a model is made, and what its blocks are made of.
///
/// # Errors
/// An architecture that llmc cannot run, or one whose blocks it cannot take apart.
pub fn layouts(checkpoint: &Arc<Checkpoint>) -> Result<(Model, Vec<BlockLayout>)> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let model = stored.model()?;
    let layouts = (0..model.layers.len()).map(|block| block_layout(&model, &stored, block));
    let layouts = layouts.collect::<Result<_>>()?;
    Ok((model, layouts))
}

/// A model and the calibration set.
pub struct Runner<'a> {
    pub checkpoint: Arc<Checkpoint>,
    pub model: Model,
    pub layouts: Vec<BlockLayout>,
    pub batches: Batches<'a>,
    pub machine: Machine,
    pub material: Material<'a>,
    /// Edits of what is outside the blocks.
    ends: &'a Made,
    /// Whether weights that are not finite are taken as 0.
    pub allow_nonfinite: bool,
    pub options: &'a Options<'a>,
}

impl<'a> Runner<'a> {
    /// Looks up how the model is made.
    ///
    /// # Errors
    /// An architecture that llmc cannot run, or one whose blocks it cannot take apart.
    pub fn new(
        checkpoint: &Arc<Checkpoint>,
        material: Material<'a>,
        ends: &'a Made,
        allow_nonfinite: bool,
        options: &'a Options<'a>,
    ) -> Result<Self> {
        let (model, layouts) = layouts(checkpoint)?;
        let machine = Machine::open(options.device)?;
        let (checkpoint, batches) = (Arc::clone(checkpoint), Batches::new(material.sequences));
        Ok(Runner { checkpoint, model, layouts, batches, machine, material, ends, allow_nonfinite, options })
    }

    /// Takes one block after the other, from the first that any of the journals does not have: `take` is given a block's number,
    /// the chains before it, and those behind it, which it fills; what it keeps must be on the disk when it returns.
    /// `reference` adds a second chain, of the model as it was.
    pub fn each_block(
        &self,
        workspace: &Workspace,
        journals: &[&Journal],
        reference: bool,
        mut take: impl FnMut(usize, &[Chain], &[Chain]) -> Result<BlockReport>,
    ) -> Result<Vec<BlockReport>> {
        let done = journals.iter().map(|journal| journal.blocks()).min().unwrap_or(0);
        let mut reports = Reports::open(workspace, done)?;
        let mut chains = self.start(workspace, &mut reports, reference)?;
        (self.options.events)(&Event::Start { done: reports.len(), of: self.layouts.len() });
        // A run that was killed as it finished a block may have left what that block was made from.
        (0..reports.len()).for_each(|block| self.forget(workspace, block));
        for index in reports.len()..self.layouts.len() {
            let next = self.create(workspace, index + 1, reference)?;
            reports.push(take(index, &chains, &next)?)?;
            chains = next;
            chains.iter().try_for_each(Chain::sync)?;
            journals.iter().try_for_each(|journal| journal.block_done(index))?;
            self.forget(workspace, index);
            (self.options.events)(&Event::Block { index, of: self.layouts.len() });
        }
        self.forget(workspace, self.layouts.len());
        Ok(reports.into_all())
    }

    /// The checkpoint's weights, with the edits outside the blocks.
    pub fn weights(&self) -> Current<'_> {
        Current::new(&self.checkpoint, self.ends, self.allow_nonfinite)
    }

    /// The chains that block `reports.len()` begins with: those of an interrupted run, or the embedded tokens.
    fn start(&self, workspace: &Workspace, reports: &mut Reports, reference: bool) -> Result<Vec<Chain>> {
        if reports.len() == self.layouts.len() {
            return Ok(Vec::new()); // what remains needs none
        }
        let open = |path: PathBuf| Chain::open(&path, self.batches.tokens(), self.model.hidden);
        let found = self.paths(workspace, reports.len(), reference).into_iter().map(open);
        match found.collect::<Result<Option<Vec<Chain>>>>()? {
            Some(chains) if reports.len() > 0 => Ok(chains),
            _ => {
                reports.clear()?;
                let chains = self.create(workspace, 0, reference)?;
                self.embed(&chains)?;
                Ok(chains)
            }
        }
    }

    fn embed(&self, chains: &[Chain]) -> Result<()> {
        if self.batches.tokens() == 0 {
            return Ok(());
        }
        match &self.machine {
            Machine::Cpu => self.embed_on(&Cpu::new(Activations::F32), chains),
            Machine::Candle(candle) => self.embed_on(candle, chains),
        }
    }

    fn embed_on<B: Backend>(&self, backend: &B, chains: &[Chain]) -> Result<()> {
        let embedding = Embedding::load(backend, &self.model, &self.weights())?;
        self.batches.embed(backend, &self.model, &embedding, chains)
    }

    /// The chain's file before a block, and the reference's where there is one.
    fn paths(&self, workspace: &Workspace, block: usize, reference: bool) -> Vec<PathBuf> {
        let names = [format!("activations-{block}.f32"), format!("reference-{block}.f32")];
        names.iter().take(1 + usize::from(reference)).map(|name| workspace.path(name)).collect()
    }

    fn create(&self, workspace: &Workspace, block: usize, reference: bool) -> Result<Vec<Chain>> {
        let paths = self.paths(workspace, block, reference).into_iter();
        paths.map(|path| Chain::create(&path, self.batches.tokens(), self.model.hidden)).collect()
    }

    /// Removes the chains before a block: the next one's are recorded.
    fn forget(&self, workspace: &Workspace, block: usize) {
        for path in self.paths(workspace, block, true) {
            std::fs::remove_file(path).unwrap_or_default(); // not there, where the method needs one chain only
        }
    }
}
