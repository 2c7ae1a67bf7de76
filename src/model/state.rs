//! The state of the sequences that a decoder works on: everything that its mixers carry from token to token.

use super::description::Model;
use super::mixer::MixerState;
use crate::backend::{Backend, Span};
use crate::error::Result;

/// One state per block, each with the same slots; a slot holds one sequence.
pub struct State<B: Backend> {
    pub(super) layers: Vec<MixerState<B>>,
    lengths: Vec<usize>,
}

impl<B: Backend> State<B> {
    pub(super) fn new(backend: &B, model: &Model, slots: usize) -> Result<Self> {
        let layers: Result<Vec<_>> =
            model.layers.iter().map(|layer| layer.mixer.state(backend, slots)).collect();
        Ok(State { layers: layers?, lengths: vec![0; slots] })
    }

    /// Returns the tokens that a slot holds.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Returns the number of slots.
    pub(crate) fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Makes slot `to` a copy of the first `len` tokens of slot `from`.
    pub fn copy(&mut self, backend: &B, from: usize, to: usize, len: usize) -> Result<()> {
        for layer in &mut self.layers {
            layer.copy(backend, from, to, len)?;
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
