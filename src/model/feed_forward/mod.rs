//! Feed-forward networks: the part of a block that takes each token by itself. One file per kind, which holds its description
//! (names and settings), its loading, its forward pass and its walk.

pub(crate) mod dense;
pub(crate) mod experts;
pub(crate) mod gated;

use super::layout::{InputPlace, Walk};
use super::names::{Network, TensorName};
use super::settings::{SettingKeys, Settings};
use super::weights::{Loader, Location};
use crate::backend::Backend;
use crate::error::Result;
pub use dense::Dense;
use dense::DenseWeights;
use experts::ExpertWeights;
pub use experts::Experts;
pub use gated::Gated;
use gated::GatedWeights;

/// A feed-forward network: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedForward {
    /// Without a gate.
    Dense(Dense),
    /// With a gate.
    Gated(Gated),
    /// A mixture of experts, in the blocks whose weights have a router.
    Experts(Experts),
}

impl FeedForward {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        match self {
            FeedForward::Dense(dense) => dense.tensors(),
            FeedForward::Gated(gated) => gated.tensors(Network::Dense),
            FeedForward::Experts(experts) => experts.tensors(),
        }
    }

    /// Fills in the settings that config.json has.
    pub(super) fn read(self, settings: &Settings, keys: &SettingKeys) -> Result<FeedForward> {
        let activation = |default| settings.activation(keys.activation, default);
        Ok(match self {
            FeedForward::Dense(dense) => {
                FeedForward::Dense(Dense { activation: activation(dense.activation)?, ..dense })
            }
            FeedForward::Gated(gated) => {
                FeedForward::Gated(Gated { activation: activation(gated.activation)?, ..gated })
            }
            FeedForward::Experts(experts) => {
                FeedForward::Experts(experts.read(settings, activation(experts.expert.activation)?)?)
            }
        })
    }

    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<FeedForwardWeights<B>> {
        match self {
            FeedForward::Dense(dense) => dense.load(loader, at).map(FeedForwardWeights::Dense),
            FeedForward::Gated(gated) => gated.load(loader, at).map(FeedForwardWeights::Gated),
            FeedForward::Experts(experts) if loader.tensors.has(experts.router, at) => {
                experts.load(loader, at).map(Box::new).map(FeedForwardWeights::Experts)
            }
            FeedForward::Experts(experts) => experts.dense.load(loader, at).map(FeedForwardWeights::Gated),
        }
    }

    /// Adds its linears to a layout.
    pub(super) fn walk(&self, walk: &mut Walk, from: InputPlace, writes_residual: bool) -> Result<()> {
        match self {
            FeedForward::Dense(dense) => dense.walk(walk, from, writes_residual),
            FeedForward::Gated(gated) => gated.walk(walk, None, from, writes_residual),
            FeedForward::Experts(experts) if walk.has(experts.router) => {
                experts.walk(walk, from, writes_residual)
            }
            FeedForward::Experts(experts) => experts.dense.walk(walk, None, from, writes_residual),
        }
    }
}

/// A feed-forward network, loaded.
pub(super) enum FeedForwardWeights<B: Backend> {
    Dense(DenseWeights<B>),
    Gated(GatedWeights<B>),
    Experts(Box<ExpertWeights<B>>),
}

impl<B: Backend> FeedForwardWeights<B> {
    /// Returns its output: [rows, hidden] → [rows, hidden].
    pub(crate) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        match self {
            FeedForwardWeights::Dense(dense) => dense.forward(backend, x),
            FeedForwardWeights::Gated(gated) => gated.forward(backend, x),
            FeedForwardWeights::Experts(experts) => experts.forward(backend, x),
        }
    }
}
