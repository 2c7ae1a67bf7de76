//! A feed-forward network without a gate: down(activation(up(x))).

use crate::backend::{Activation, Backend};
use crate::error::Result;
use crate::model::layout::{InputPlace, Walk};
use crate::model::names::{Network, TensorName, TensorRole};
use crate::model::weights::{Loader, Location};

/// A network without a gate: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dense {
    /// The linear that widens.
    pub up: &'static str,
    /// The linear that narrows.
    pub down: &'static str,
    /// The function between them.
    pub activation: Activation,
}

impl Dense {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        vec![
            TensorName::new(TensorRole::Up(Network::Dense), self.up),
            TensorName::new(TensorRole::Down(Network::Dense), self.down),
        ]
    }

    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<DenseWeights<B>> {
        let width = loader.rows(self.up, at)?;
        let up = loader.linear(&[(self.up, width)], loader.hidden, at)?;
        let down = loader.linear(&[(self.down, loader.hidden)], width, at)?;
        Ok(DenseWeights { up, down, activation: self.activation })
    }

    /// Adds its linears to a layout.
    pub(super) fn walk(&self, walk: &mut Walk, from: InputPlace, writes_residual: bool) -> Result<()> {
        let up = walk.linear(self.up, None, from, false)?;
        let rows = walk.rows(up)? as u32;
        let mut active = walk.input(from.depth + 1);
        // Of the functions, ReLU alone lets scales pass.
        if self.activation == Activation::Relu {
            active.fold = Some(walk.fold(up, (0..rows).collect(), None)?);
        }
        walk.linear(self.down, None, active, writes_residual)?;
        Ok(())
    }
}

/// A network without a gate, loaded.
pub(in crate::model) struct DenseWeights<B: Backend> {
    up: B::Linear,
    down: B::Linear,
    activation: Activation,
}

impl<B: Backend> DenseWeights<B> {
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let active = backend.activate(backend.linear(x, &self.up)?, self.activation)?;
        backend.linear(&active, &self.down)
    }
}
