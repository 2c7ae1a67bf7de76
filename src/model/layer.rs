//! A layer: the description of one block, from which its weights are loaded and its layout is derived.

use super::feed_forward::FeedForward;
use super::layout::Walk;
use super::mixer::Mixer;
use super::names::{TensorName, TensorRole};
use crate::error::Result;

/// A block: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// The part in which tokens see each other.
    pub mixer: Mixer,
    /// The part that takes each token by itself.
    pub feed_forward: FeedForward,
    /// The norms around both.
    pub norms: Norms,
    /// True if mixer and feed-forward network read the same input (GPT-NeoX).
    pub parallel: bool,
}

/// The norms of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    /// Those around the mixer.
    pub mixer: SublayerNorms,
    /// Those around the feed-forward network; in parallel, without a norm of its input, it reads the mixer's.
    pub feed_forward: SublayerNorms,
}

/// The norms around a mixer or a feed-forward network f: x = after(x + output(f(input(x)))), each where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SublayerNorms {
    /// Norm of the input.
    pub input: Option<&'static str>,
    /// Norm of the output.
    pub output: Option<&'static str>,
    /// Norm of the residual stream afterwards (BERT).
    pub after: Option<&'static str>,
}

impl SublayerNorms {
    /// Returns a norm of the input alone.
    pub(crate) const fn before(input: &'static str) -> SublayerNorms {
        SublayerNorms { input: Some(input), output: None, after: None }
    }

    /// Returns a norm of the residual stream afterwards alone.
    pub(crate) const fn after(after: &'static str) -> SublayerNorms {
        SublayerNorms { input: None, output: None, after: Some(after) }
    }

    fn tensors(self, input: TensorRole, output: TensorRole) -> impl Iterator<Item = TensorName> {
        let norms = [(input, self.input), (output, self.output), (TensorRole::ResidualNorm, self.after)];
        norms.into_iter().filter_map(|(role, name)| Some(TensorName::new(role, name?)))
    }
}

impl Layer {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let Norms { mixer, feed_forward } = self.norms;
        let mut tensors = self.mixer.tensors();
        tensors.extend(self.feed_forward.tensors());
        tensors.extend(mixer.tensors(TensorRole::MixerNorm, TensorRole::MixerOutputNorm));
        tensors.extend(feed_forward.tensors(TensorRole::FeedForwardNorm, TensorRole::FeedForwardOutputNorm));
        tensors
    }

    /// Adds norms and linears to a layout, in the order of the forward pass.
    pub(super) fn walk(&self, walk: &mut Walk) -> Result<()> {
        let Norms { mixer, feed_forward } = self.norms;
        let mixed = walk.normed(mixer.input, 0);
        let next = self.mixer.walk(walk, mixed, mixer.output.is_none())?;
        let fed = match (feed_forward.input, self.parallel) {
            (None, true) => mixed,
            (norm, parallel) => walk.normed(norm, if parallel { 0 } else { next }),
        };
        self.feed_forward.walk(walk, fed, feed_forward.output.is_none())
    }
}
