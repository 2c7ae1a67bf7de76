//! Runs batches of tokens: the [`Runner`] trait and its implementation for a loaded model.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::{Cache, LanguageModel};
use crate::error::{Error, Result};
use crate::eval::softmax::NOT_FINITE;
use crate::model::Batch;

/// A callback that gets the index of a logits row, among the requested rows, and the row.
pub(crate) type RowVisitor<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + Send + 'a;

/// Runs batches on the slots of a cache.
pub(crate) trait Runner {
    /// Makes at least `count` slots. Their old content may be lost.
    fn make_slots(&mut self, count: usize) -> Result<()>;
    /// Makes slot `to` a copy of the first `len` tokens of slot `from`.
    fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()>;
    /// Runs a batch and passes the logits of `rows` to `visit`.
    fn logits(&mut self, batch: &Batch, rows: &[u32], visit: &mut RowVisitor) -> Result<()>;
}

/// A [`Runner`] for a loaded model.
pub(crate) struct ModelRunner<'a> {
    model: &'a LanguageModel,
    cache: Option<Cache>,
}

impl<'a> ModelRunner<'a> {
    /// Creates a runner without slots.
    pub(crate) fn new(model: &'a LanguageModel) -> ModelRunner<'a> {
        ModelRunner { model, cache: None }
    }
}

impl Runner for ModelRunner<'_> {
    fn make_slots(&mut self, count: usize) -> Result<()> {
        if self.cache.as_ref().is_none_or(|cache| cache.slots() < count) {
            self.cache = Some(self.model.cache(count)?);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        let cache = self.cache.as_mut().expect("the slots exist before they are filled");
        self.model.copy(cache, from, to, len)
    }

    fn logits(&mut self, batch: &Batch, rows: &[u32], visit: &mut RowVisitor) -> Result<()> {
        let vocabulary = self.model.vocabulary();
        self.model.logits(batch, self.cache.as_mut(), rows, |range, values| {
            range.zip(values.chunks_exact(vocabulary)).try_for_each(|(row, logits)| visit(row, logits))
        })
    }
}

/// Reports the progress of a task and lets the user interrupt it.
pub(crate) struct Monitor<'a> {
    /// The signal to stop after the current batch.
    pub interrupted: &'a AtomicBool,
    /// A callback that gets the number of answered questions and of all questions.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Monitor<'_> {
    pub(super) fn answered(&self, answered: usize, all: usize) -> Result<()> {
        (self.progress)(answered, all);
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted { hint: "nothing was kept: run the same command again".into() });
        }
        Ok(())
    }
}

pub(super) fn not_finite() -> Error {
    Error::unsupported("the model's logits are not finite", NOT_FINITE)
}
