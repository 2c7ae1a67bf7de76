//! A decoder wherever it runs: what callers see of a [`Decoder`], without the types of its backend.

use std::any::Any;
use std::ops::Range;

use crate::backend::Backend;
use crate::error::Result;
use crate::model::{Batch, Decoder, Model, State};

/// Most bytes of logits that exist at a time.
const LOGIT_BYTES: usize = 16 << 20;

/// Gets a range of indices into rows and their logits, [range.len(), vocabulary].
pub type See<'a> = dyn FnMut(Range<usize>, &[f32]) -> Result<()> + Send + 'a;

/// The keys and values of the sequences that a model is working on.
pub struct Cache(Box<dyn Slots>);

impl Cache {
    /// Tokens that a slot holds.
    pub fn len(&self, slot: usize) -> usize {
        self.0.len(slot)
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.0.slots()
    }

    /// As the backend knows it.
    fn of<B: Backend + 'static>(&mut self) -> &mut State<B> {
        let cache: &mut dyn Any = self.0.as_mut();
        cache.downcast_mut().expect("a cache is used with the model that made it")
    }
}

/// [`State`] of any backend.
trait Slots: Any + Send {
    fn len(&self, slot: usize) -> usize;
    fn slots(&self) -> usize;
}

impl<B: Backend + 'static> Slots for State<B> {
    fn len(&self, slot: usize) -> usize {
        State::len(self, slot)
    }

    fn slots(&self) -> usize {
        State::slots(self)
    }
}

/// [`Decoder`] on any backend.
pub trait Placed: Send + Sync {
    fn model(&self) -> &Model;
    fn vocabulary(&self) -> usize;
    fn cache(&self, slots: usize) -> Result<Cache>;
    fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()>;
    fn logits(&self, batch: &Batch, cache: Option<&mut Cache>, rows: &[u32], see: &mut See) -> Result<()>;
    fn hidden(&self, batch: &Batch) -> Result<Vec<f32>>;
}

impl<B: Backend + 'static> Placed for Decoder<B> {
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

    fn logits(&self, batch: &Batch, cache: Option<&mut Cache>, rows: &[u32], see: &mut See) -> Result<()> {
        let hidden = Decoder::hidden(self, batch, cache.map(Cache::of))?;
        let step = (LOGIT_BYTES / (4 * Decoder::vocabulary(self))).max(1);
        for start in (0..rows.len()).step_by(step) {
            let range = start..rows.len().min(start + step);
            let logits = Decoder::logits(self, &self.backend().gather(&hidden, &rows[range.clone()])?)?;
            self.backend().read(&logits, |values| see(range, values))??;
        }
        Ok(())
    }

    fn hidden(&self, batch: &Batch) -> Result<Vec<f32>> {
        let hidden = Decoder::hidden(self, batch, None)?;
        self.backend().read(&hidden, <[f32]>::to_vec)
    }
}
