//! Pruning stages: weights that are zero from then on.
//!
//! No method of the registry prunes yet; the tests of the block loop hold the contract.

use std::fmt::Debug;

use ndarray::Array2;

use super::block::Block;
use super::scope::Scope;
use crate::error::Result;
use crate::numerics::Weight;
use crate::statistics::Needs;

/// A method that sets weights to zero.
pub trait Prune: Send + Sync + Debug {
    /// The statistics of the inputs that it reads.
    fn needs(&self) -> Needs;

    /// The part of a block that it is given at a time.
    fn scope(&self) -> Scope;

    /// Returns the masks and new weights of the linears, in their order; `None` for a linear that keeps its weight.
    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>>;
}

/// A weight with a mask.
#[derive(Debug, Clone)]
pub struct PrunedWeight {
    /// True where the weight is zero for good, [rows, cols].
    pub mask: Array2<bool>,
    /// The values, [rows, cols].
    pub values: Array2<f32>,
}

impl Block {
    /// Applies the result of a pruning stage.
    pub(crate) fn prune(&mut self, weights: Vec<Option<PrunedWeight>>) {
        for (linear, pruned) in self.linears.iter_mut().zip(weights) {
            if let Some(PrunedWeight { mask, values }) = pruned {
                linear.weight = Weight::Dense(values);
                linear.mask = Some(mask);
            }
        }
    }
}
