//! One decoder block, loaded: a mixer and a feed-forward network on the residual stream.

use super::description::Model;
use super::feed_forward::FeedForwardWeights;
use super::layer::{Layer, SublayerNorms};
use super::mixer::{MixerState, MixerWeights};
use super::weights::{Loader, Location, Weights};
use crate::backend::{Backend, Rotations, Span};
use crate::error::Result;

/// A block, loaded. Blocks can be loaded and run one at a time.
pub(crate) struct Block<B: Backend> {
    mixer: MixerWeights<B>,
    mixer_norms: NormTriple<B>,
    feed_forward: FeedForwardWeights<B>,
    feed_forward_norms: NormTriple<B>,
    parallel: bool,
}

/// The norms around a mixer or a feed-forward network, where there are any.
struct NormTriple<B: Backend> {
    input: Option<B::Norm>,
    output: Option<B::Norm>,
    after: Option<B::Norm>,
}

impl<B: Backend> NormTriple<B> {
    fn load(loader: &Loader<B>, names: SublayerNorms, at: Location) -> Result<Self> {
        let norm = |name: Option<&str>| name.map(|name| loader.norm(name, at)).transpose();
        Ok(NormTriple { input: norm(names.input)?, output: norm(names.output)?, after: norm(names.after)? })
    }

    /// Normalizes the input, where there is a norm for it.
    fn before(&self, backend: &B, x: &B::Tensor) -> Result<Option<B::Tensor>> {
        self.input.as_ref().map(|norm| backend.norm(x, norm)).transpose()
    }

    /// Returns after(x + output(y)).
    fn join(&self, backend: &B, x: B::Tensor, y: B::Tensor) -> Result<B::Tensor> {
        let y = normed(backend, y, self.output.as_ref())?;
        normed(backend, backend.add(x, &y)?, self.after.as_ref())
    }
}

/// Applies a norm that a model may do without.
pub(super) fn normed<B: Backend>(backend: &B, x: B::Tensor, norm: Option<&B::Norm>) -> Result<B::Tensor> {
    match norm {
        Some(norm) => backend.norm(&x, norm),
        None => Ok(x),
    }
}

impl<B: Backend> Block<B> {
    /// Loads one block alone.
    pub(crate) fn load(backend: &B, model: &Model, weights: &dyn Weights, index: usize) -> Result<Self> {
        Self::load_with(&model.loader(backend, weights), &model.layers[index], index)
    }

    pub(super) fn load_with(loader: &Loader<B>, layer: &Layer, index: usize) -> Result<Self> {
        let at = Location { block: index, part: 0 };
        Ok(Block {
            mixer_norms: NormTriple::load(loader, layer.norms.mixer, at)?,
            mixer: layer.mixer.load(loader, at)?,
            feed_forward_norms: NormTriple::load(loader, layer.norms.feed_forward, at)?,
            feed_forward: layer.feed_forward.load(loader, at)?,
            parallel: layer.parallel,
        })
    }

    /// Returns the hidden states behind the block: [rows, hidden] → [rows, hidden]. `rotations` are those of
    /// the batch ([`Model::rotations`]).
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        rotations: &[Rotations],
        spans: &[Span],
        state: Option<&mut MixerState<B>>,
    ) -> Result<B::Tensor> {
        let before = self.mixer_norms.before(backend, &x)?;
        let mixed = self.mixer.forward(backend, before.as_ref().unwrap_or(&x), rotations, spans, state)?;
        if self.parallel {
            let own = self.feed_forward_norms.before(backend, &x)?;
            let input = own.as_ref().or(before.as_ref()).unwrap_or(&x);
            let fed = self.feed_forward.forward(backend, input)?;
            return backend.add(backend.add(x, &mixed)?, &fed);
        }
        let x = self.mixer_norms.join(backend, x, mixed)?;
        let before = self.feed_forward_norms.before(backend, &x)?;
        let fed = self.feed_forward.forward(backend, before.as_ref().unwrap_or(&x))?;
        self.feed_forward_norms.join(backend, x, fed)
    }
}
