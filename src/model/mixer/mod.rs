//! Mixers: the part of a block in which tokens see each other. One file per kind, which holds its description (names and
//! settings), its loading, its forward pass and its walk.

pub(crate) mod attention;

use super::layout::{InputPlace, Walk};
use super::names::TensorName;
use super::settings::{SettingKeys, Settings};
use super::weights::{Loader, Location};
use crate::backend::{Backend, Rotations, Span};
use crate::error::Result;
pub use attention::Attention;
use attention::AttentionWeights;

/// A mixer: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixer {
    /// Attention over keys and values.
    Attention(Attention),
}

impl Mixer {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let Mixer::Attention(attention) = self;
        attention.tensors()
    }

    /// Fills in the settings that config.json has, in a model of this width.
    pub(super) fn read(self, settings: &Settings, keys: &SettingKeys, hidden: usize) -> Result<Mixer> {
        let Mixer::Attention(attention) = self;
        attention.read(settings, keys, hidden).map(Mixer::Attention)
    }

    /// Refuses numbers that do not belong together.
    pub(super) fn validate(&self) -> Result<()> {
        let Mixer::Attention(attention) = self;
        attention.validate()
    }

    /// Returns the values that it carries from token to token, for each token.
    pub(crate) fn state_values(&self) -> usize {
        let Mixer::Attention(attention) = self;
        2 * attention.kv_width()
    }

    /// Returns the number of positions back that a token sees; `None` for all.
    pub(crate) fn window(&self) -> Option<usize> {
        let Mixer::Attention(attention) = self;
        attention.window
    }

    /// Returns an empty state of so many sequences.
    pub(super) fn state<B: Backend>(&self, backend: &B, slots: usize) -> Result<MixerState<B>> {
        let Mixer::Attention(attention) = self;
        backend.key_values(attention.kv_width(), slots).map(MixerState::Attention)
    }

    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<MixerWeights<B>> {
        let Mixer::Attention(attention) = self;
        attention.load(loader, at).map(MixerWeights::Attention)
    }

    /// Adds its linears to a layout. Returns the depth of what comes after it.
    pub(super) fn walk(&self, walk: &mut Walk, from: InputPlace, writes_residual: bool) -> Result<usize> {
        let Mixer::Attention(attention) = self;
        attention.walk(walk, from, writes_residual)
    }
}

/// The state that a mixer carries from token to token, for every slot; a slot holds one sequence.
pub(crate) enum MixerState<B: Backend> {
    /// Keys and values.
    Attention(B::KeyValues),
}

impl<B: Backend> MixerState<B> {
    /// Makes slot `to` a copy of the first `len` tokens of slot `from`.
    pub(super) fn copy(&mut self, backend: &B, from: usize, to: usize, len: usize) -> Result<()> {
        let MixerState::Attention(key_values) = self;
        backend.copy_slot(key_values, from, to, len)
    }
}

/// A mixer, loaded.
pub(super) enum MixerWeights<B: Backend> {
    Attention(AttentionWeights<B>),
}

impl<B: Backend> MixerWeights<B> {
    /// Returns its output: [rows, hidden] → [rows, hidden].
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        rotations: &[Rotations],
        spans: &[Span],
        state: Option<&mut MixerState<B>>,
    ) -> Result<B::Tensor> {
        let MixerWeights::Attention(attention) = self;
        let key_values = state.map(|MixerState::Attention(key_values)| key_values);
        attention.forward(backend, x, rotations, spans, key_values)
    }
}
