//! Hidden states that several passes read and write.

use std::cell::RefCell;
use std::path::PathBuf;

use super::work::Work;
use crate::backend::Backend;
use crate::error::Result;
use crate::model::Block;
use crate::pipeline::blocks::{Batches, Chain};

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
}
