//! Pruning stages: weights that are zero from then on.

use std::fmt::Debug;

use ndarray::{Array2, ArrayView2};

use super::allocation::Allocation;
use super::block::{Block, BlockLinear};
use super::scope::Scope;
use crate::error::Result;
use crate::numerics::sparsity::Among;
use crate::numerics::{Sparsity, Weight};
use crate::statistics::Needs;

/// A method that sets weights to zero.
pub trait Prune: Send + Sync + Debug {
    /// The statistics of the inputs that it reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// The part of a block that it is given at a time.
    fn scope(&self) -> Scope {
        Scope::Input
    }

    /// Returns true if the last linear of each block is fitted to the original model's states before it is pruned: it then makes
    /// up for what the blocks before and the rest of its own have lost.
    fn corrects(&self) -> bool {
        false
    }

    /// The zeros of each linear, unless an override says otherwise.
    fn sparsity(&self) -> Sparsity;

    /// The rule by which blocks share these zeros out.
    fn allocation(&self) -> Allocation {
        Allocation::Uniform
    }

    /// Returns the masks and new weights of the linears that have a [`BlockLinear::sparsity`], in their order; `None` for the
    /// others, which keep their weights.
    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>>;
}

/// A weight with a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct PrunedWeight {
    /// True where the weight is zero for good, [rows, cols].
    pub mask: Array2<bool>,
    /// The values, [rows, cols].
    pub values: Array2<f32>,
}

impl PrunedWeight {
    /// Values with +0 where the mask is true. Other zeros become +0 too: some kernels cannot take a −0.
    pub(crate) fn new(mut values: Array2<f32>, mask: Array2<bool>) -> PrunedWeight {
        values.zip_mut_with(&mask, |value, zero| *value = if *zero || *value == 0.0 { 0.0 } else { *value });
        PrunedWeight { mask, values }
    }

    /// Sets the weights of the lowest scores to zero, and keeps the others. `scores` of a linear and its weight are [rows, cols].
    ///
    /// # Errors
    /// The errors of `scores`; a weight that is already quantized.
    pub(crate) fn by_scores(
        block: &Block,
        among: Among,
        scores: impl Fn(&BlockLinear, ArrayView2<f32>) -> Result<Array2<f32>>,
    ) -> Result<Vec<Option<PrunedWeight>>> {
        PrunedWeight::of_each(block, |linear, sparsity| {
            let w = linear.dense()?;
            let mask = sparsity.mask(scores(linear, w)?.view(), among);
            Ok(PrunedWeight::new(w.to_owned(), mask))
        })
    }

    /// Prunes each linear that has a sparsity by itself.
    ///
    /// # Errors
    /// The errors of `prune`.
    pub(crate) fn of_each(
        block: &Block,
        mut prune: impl FnMut(&BlockLinear, Sparsity) -> Result<PrunedWeight>,
    ) -> Result<Vec<Option<PrunedWeight>>> {
        let mut of =
            |linear: &BlockLinear| linear.sparsity.map(|sparsity| prune(linear, sparsity)).transpose();
        block.linears.iter().map(&mut of).collect()
    }
}

impl Block {
    /// Applies the result of a pruning stage. Returns the dense weight of each linear that now has a mask.
    pub(crate) fn prune(&mut self, weights: Vec<Option<PrunedWeight>>) -> Vec<Option<Array2<f32>>> {
        let prune = |(linear, pruned): (&mut BlockLinear, Option<PrunedWeight>)| {
            let PrunedWeight { mask, values } = pruned?;
            linear.mask = Some(mask);
            match std::mem::replace(&mut linear.weight, Weight::Dense(values)) {
                Weight::Dense(values) => Some(values),
                Weight::Quantized(_) => None,
            }
        };
        self.linears.iter_mut().zip(weights).map(prune).collect()
    }
}
