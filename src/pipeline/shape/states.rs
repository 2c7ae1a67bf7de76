//! Hidden states that several passes read and write.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;

use super::divergence::{divergence, log_probabilities};
use super::work::Work;
use crate::backend::Backend;
use crate::error::Result;
use crate::model::{Block, Head};
use crate::pipeline::blocks::{Batches, Chain};
use crate::pipeline::options::check_interrupted;

/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 256;

/// Hidden states of sequences, in files of the partial output that go with it.
pub(super) struct States<'a> {
    work: &'a Work<'a>,
    batches: &'a Batches<'a>,
    files: RefCell<Vec<PathBuf>>,
}

impl Drop for States<'_> {
    fn drop(&mut self) {
        // What cannot be removed is in the way of nobody.
        self.files.borrow().iter().for_each(|path| std::fs::remove_file(path).unwrap_or_default());
    }
}

impl<'a> States<'a> {
    pub(super) fn new(work: &'a Work<'a>, batches: &'a Batches<'a>) -> States<'a> {
        States { work, batches, files: RefCell::default() }
    }

    pub(super) fn chain(&self, name: &str) -> Result<Chain> {
        let path = self.work.workspace.path(&format!("{name}.f32"));
        self.files.borrow_mut().push(path.clone());
        Chain::create(&path, self.batches.tokens(), self.work.runner.model.hidden)
    }

    pub(super) fn copy(&self, from: &Chain, to: &Chain) -> Result<()> {
        self.batches.all().iter().try_for_each(|batch| {
            let tokens = self.batches.range(batch);
            to.write(&tokens, &from.read(&tokens)?)
        })
    }

    /// Runs a chain through a block, in place.
    pub(super) fn forward<B: Backend>(&self, backend: &B, block: &Block<B>, chain: &Chain) -> Result<()> {
        let model = &self.work.runner.model;
        for batch in self.batches.all() {
            let (tokens, spans) = (self.batches.range(batch), self.batches.spans(batch));
            let x = backend.tensor(tokens.len(), model.hidden, &chain.read(&tokens)?)?;
            let y = block.forward(backend, x, &model.rotations(&spans), &spans, None)?;
            backend.read(&y, |values| chain.write(&tokens, values))??;
        }
        Ok(())
    }

    /// The mean divergence of each chain's predictions from those of `whole`.
    pub(super) fn compare<B: Backend>(
        &self,
        backend: &B,
        head: &Head<B>,
        whole: &Chain,
        chains: &[Chain],
    ) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; chains.len()];
        let all = self.batches.tokens();
        for first in (0..all).step_by(CHUNK) {
            check_interrupted(self.work.runner.options)?;
            let tokens = first..(first + CHUNK).min(all);
            let base = log_probabilities(self.logits(backend, head, whole, &tokens)?, head.vocabulary())?;
            for (sum, chain) in sums.iter_mut().zip(chains) {
                let logits = self.logits(backend, head, chain, &tokens)?;
                *sum += divergence(&logits, &base, head.vocabulary())?;
            }
        }
        Ok(sums.into_iter().map(|sum| sum / all.max(1) as f64).collect())
    }

    fn logits<B: Backend>(
        &self,
        backend: &B,
        head: &Head<B>,
        chain: &Chain,
        tokens: &Range<usize>,
    ) -> Result<Vec<f32>> {
        let hidden = self.work.runner.model.hidden;
        let x = backend.tensor(tokens.len(), hidden, &chain.read(tokens)?)?;
        let logits = head.logits(backend, &head.norm(backend, x)?)?;
        backend.read(&logits, <[f32]>::to_vec)
    }
}
