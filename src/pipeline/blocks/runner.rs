//! Runs a model block by block over the calibration set. The hidden states between two blocks are in files, and an
//! interrupted run resumes after the last block in its journal.

use std::path::PathBuf;
use std::sync::Arc;

use super::batches::Batches;
use super::chain::Chain;
use super::machine::Machine;
use super::report::{BlockReport, Reports};
use super::weights::Current;
use crate::backend::Backend;
use crate::backend::cpu::{Activations, Cpu};
use crate::calib::PriorStatistics;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::model::{BlockLayout, Embedding, Model};
use crate::pipeline::options::{Event, Options};
use crate::pipeline::output::{Journal, Workspace};
use crate::pipeline::stream::BlockResult;

/// The input of a calibration: sequences, or statistics of an earlier run.
#[derive(Debug, Clone, Copy, Default)]
pub struct CalibrationInput<'a> {
    /// Token ids of each sequence.
    pub sequences: &'a [Vec<u32>],
    /// Experts that get fewer tokens than this, or none, are shown all tokens instead.
    pub expert_tokens: u64,
    /// Statistics of an earlier run in the place of sequences.
    pub prior: Option<&'a PriorStatistics>,
}

/// A model and the calibration set.
pub(crate) struct Runner<'a> {
    pub checkpoint: Arc<Checkpoint>,
    pub model: Model,
    pub layouts: Vec<BlockLayout>,
    pub batches: Batches<'a>,
    pub machine: Machine,
    pub input: CalibrationInput<'a>,
    /// Edits outside the blocks.
    ends: &'a BlockResult,
    /// True if weights that are not finite become 0; else they are an error.
    pub allow_nonfinite: bool,
    pub options: &'a Options<'a>,
}

impl<'a> Runner<'a> {
    /// A runner of the blocks of a model with these layouts: those of [`layouts`](super::layouts::layouts), or [`unobserved`](super::layouts::unobserved).
    ///
    /// # Errors
    /// A device that cannot be opened.
    pub(crate) fn new(
        checkpoint: &Arc<Checkpoint>,
        (model, layouts): (Model, Vec<BlockLayout>),
        input: CalibrationInput<'a>,
        ends: &'a BlockResult,
        allow_nonfinite: bool,
        options: &'a Options<'a>,
    ) -> Result<Self> {
        let machine = Machine::open(options.device)?;
        let (checkpoint, batches) = (Arc::clone(checkpoint), Batches::new(input.sequences));
        Ok(Runner { checkpoint, model, layouts, batches, machine, input, ends, allow_nonfinite, options })
    }

    /// Works through the blocks, from the first that any of the journals does not have. `take` gets a block's number, the
    /// chains before it, and the chains after it, which it fills. Its outputs must be on the disk when it returns.
    /// `reference` adds a second chain, of the original model. An interrupted run is gone on with if all of its finished blocks
    /// are `intact`.
    pub(crate) fn each_block(
        &self,
        workspace: &Workspace,
        journals: &[&Journal],
        reference: bool,
        intact: impl Fn(&BlockReport) -> Result<bool>,
        mut take: impl FnMut(usize, &[Chain], &[Chain]) -> Result<BlockReport>,
    ) -> Result<Vec<BlockReport>> {
        let (done, seal) = journals.iter().map(|journal| journal.blocks()).min().unwrap_or_default();
        let mut reports = Reports::open(workspace, done)?;
        let mut chains = match self.resumed(workspace, &reports, reference, seal, intact)? {
            Some(chains) => chains,
            None => {
                reports.clear()?;
                self.start(workspace, reference)?
            }
        };
        (self.options.events)(&Event::Start { done: reports.len(), of: self.layouts.len() });
        // A run that was killed as it finished a block may have left the chains before that block.
        (0..reports.len()).for_each(|block| self.forget(workspace, block));
        for index in reports.len()..self.layouts.len() {
            let next = self.create(workspace, index + 1, reference)?;
            reports.push(take(index, &chains, &next)?)?;
            chains = next;
            chains.iter().try_for_each(Chain::sync)?;
            let seal = self.seal(&reports, &chains)?;
            journals.iter().try_for_each(|journal| journal.block_done(index, &seal))?;
            self.forget(workspace, index);
            (self.options.events)(&Event::Block { index, of: self.layouts.len() });
        }
        self.forget(workspace, self.layouts.len());
        Ok(reports.into_all())
    }

    /// The checkpoint's weights, with the edits outside the blocks.
    pub(crate) fn weights(&self) -> Current<'_> {
        Current::new(&self.checkpoint, self.ends, self.allow_nonfinite)
    }

    /// The chains behind the finished blocks of an interrupted run; `None` if it finished none, or if anything of it is not as
    /// the journal has recorded it.
    fn resumed(
        &self,
        workspace: &Workspace,
        reports: &Reports,
        reference: bool,
        seal: &str,
        intact: impl Fn(&BlockReport) -> Result<bool>,
    ) -> Result<Option<Vec<Chain>>> {
        if reports.len() == 0 {
            return Ok(None);
        }
        let open = |path: PathBuf| Chain::open(&path, self.batches.tokens(), self.model.hidden);
        let is_last = reports.len() == self.layouts.len();
        let paths = if is_last { Vec::new() } else { self.paths(workspace, reports.len(), reference) };
        let chains = paths.into_iter().map(open).collect::<Result<Option<Vec<Chain>>>>()?;
        if let Some(chains) = chains
            && self.seal(reports, &chains)? == seal
            && reports.all().iter().try_fold(true, |all, report| Ok::<_, Error>(all && intact(report)?))?
        {
            return Ok(Some(chains));
        }
        let partial = workspace.partial().display();
        tracing::warn!("{partial}: its finished blocks are not whole any more: they are made again");
        Ok(None)
    }

    /// The digest of what the block behind these reports starts from. Behind the last block, no states are kept.
    fn seal(&self, reports: &Reports, chains: &[Chain]) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(reports.text().as_bytes());
        if reports.len() < self.layouts.len() {
            chains.iter().try_for_each(|chain| chain.hash_into(&mut hasher))?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The chains before the first block: the embedded tokens.
    fn start(&self, workspace: &Workspace, reference: bool) -> Result<Vec<Chain>> {
        let chains = self.create(workspace, 0, reference)?;
        self.embed(&chains)?;
        Ok(chains)
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

    /// The paths of the chain before a block, and of the reference's chain.
    fn paths(&self, workspace: &Workspace, block: usize, reference: bool) -> Vec<PathBuf> {
        let names = [format!("activations-{block}.f32"), format!("reference-{block}.f32")];
        names.iter().take(1 + usize::from(reference)).map(|name| workspace.path(name)).collect()
    }

    fn create(&self, workspace: &Workspace, block: usize, reference: bool) -> Result<Vec<Chain>> {
        let paths = self.paths(workspace, block, reference).into_iter();
        paths.map(|path| Chain::create(&path, self.batches.tokens(), self.model.hidden)).collect()
    }

    /// Removes the chains before a block, once the block is in the journal.
    fn forget(&self, workspace: &Workspace, block: usize) {
        for path in self.paths(workspace, block, true) {
            std::fs::remove_file(path).unwrap_or_default(); // there is no second chain without `reference`
        }
    }
}
