//! The keys and values of the sequences that a decoder is working on.

use super::config::Config;
use crate::backend::{Backend, Span};
use crate::error::Result;

/// One cache per block, each with the same slots; a slot holds one sequence.
pub struct Cache<B: Backend> {
    pub(super) layers: Vec<B::KeyValues>,
    lengths: Vec<usize>,
}

impl<B: Backend> Cache<B> {
    pub(super) fn new(backend: &B, config: &Config, slots: usize) -> Result<Self> {
        let layer = |_| backend.key_values(config.kv_width(), slots);
        let layers: Result<Vec<_>> = config.layers.iter().map(layer).collect();
        Ok(Cache { layers: layers?, lengths: vec![0; slots] })
    }

    /// Tokens that a slot holds.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Makes slot `to` a copy of the first `len` tokens of slot `from`.
    pub fn copy(&mut self, backend: &B, from: usize, to: usize, len: usize) -> Result<()> {
        for layer in &mut self.layers {
            backend.copy_slot(layer, from, to, len)?;
        }
        self.lengths[to] = len;
        Ok(())
    }

    pub(super) fn advance(&mut self, spans: &[Span]) {
        for span in spans {
            self.lengths[span.slot] = span.past + span.len;
        }
    }
}
