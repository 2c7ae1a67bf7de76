//! A decoder on any backend: the interface of a [`Decoder`] without the backend's types.

use std::any::Any;
use std::ops::Range;

use crate::backend::Backend;
use crate::error::Result;
use crate::model::{Batch, Decoder, Model, State};

/// The limit on the bytes of logits in memory.
const LOGIT_BYTES: usize = 16 << 20;

/// A callback that gets a range of indices into the requested rows, and their logits, [range.len(), vocabulary].
pub(crate) type LogitVisitor<'a> = dyn FnMut(Range<usize>, &[f32]) -> Result<()> + Send + 'a;

/// The keys and values of several sequences, one slot each.
pub struct Cache(Box<dyn AnyCache>);

impl Cache {
    /// The number of tokens in a slot.
    pub(crate) fn len(&self, slot: usize) -> usize {
        self.0.len(slot)
    }

    /// The number of slots.
    pub(crate) fn slots(&self) -> usize {
        self.0.slots()
    }

    /// The cache in the backend's own type.
    fn of<B: Backend + 'static>(&mut self) -> &mut State<B> {
        let cache: &mut dyn Any = self.0.as_mut();
        cache.downcast_mut().expect("the model that made the cache uses it")
    }
}

/// [`State`] of any backend.
trait AnyCache: Any + Send {
    fn len(&self, slot: usize) -> usize;
    fn slots(&self) -> usize;
}

impl<B: Backend + 'static> AnyCache for State<B> {
    fn len(&self, slot: usize) -> usize {
        State::len(self, slot)
    }

    fn slots(&self) -> usize {
        State::slots(self)
    }
}

/// [`Decoder`] on any backend. [`super::LanguageModel`] documents the methods.
pub(crate) trait AnyDecoder: Send + Sync {
    fn model(&self) -> &Model;
    fn vocabulary(&self) -> usize;
    fn cache(&self, slots: usize) -> Result<Cache>;
    fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()>;
    fn logits(
        &self,
        batch: &Batch,
        cache: Option<&mut Cache>,
        rows: &[u32],
        visit: &mut LogitVisitor,
    ) -> Result<()>;
    fn hidden(&self, batch: &Batch) -> Result<Vec<f32>>;
}

impl<B: Backend + 'static> AnyDecoder for Decoder<B> {
    fn model(&self) -> &Model {
        Decoder::model(self)
    }

    fn vocabulary(&self) -> usize {
        Decoder::vocabulary(self)
    }

    fn cache(&self, slots: usize) -> Result<Cache> {
        Ok(Cache(Box::new(Decoder::state(self, slots)?)))
    }

    fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()> {
        cache.of::<B>().copy(self.backend(), from, to, len)
    }

    fn logits(
        &self,
        batch: &Batch,
        cache: Option<&mut Cache>,
        rows: &[u32],
        visit: &mut LogitVisitor,
    ) -> Result<()> {
        let hidden = Decoder::hidden(self, batch, cache.map(Cache::of))?;
        let chunk = (LOGIT_BYTES / (4 * Decoder::vocabulary(self))).max(1);
        for start in (0..rows.len()).step_by(chunk) {
            let range = start..rows.len().min(start + chunk);
            let logits = Decoder::logits(self, &self.backend().gather(&hidden, &rows[range.clone()])?)?;
            self.backend().read(&logits, |values| visit(range, values))??;
        }
        Ok(())
    }

    fn hidden(&self, batch: &Batch) -> Result<Vec<f32>> {
        let hidden = Decoder::hidden(self, batch, None)?;
        self.backend().read(&hidden, <[f32]>::to_vec)
    }
}
