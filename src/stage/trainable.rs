//! The interface of methods that train to a block with gradients.

use std::fmt::Debug;

use ndarray::Array2;

use crate::error::Result;

/// A block whose outputs on the calibration set can be compared with those before compression, with gradients.
pub trait Trainable: Send + Sync + Debug {
    /// The number of sequences of the calibration set.
    fn samples(&self) -> usize;

    /// Returns the mean squared error of the block's outputs against those of the uncompressed model, over the tokens of
    /// some samples, and its gradients. `weights` replace the weights of the linears of those names, [rows, cols].
    fn loss(&self, weights: &[(String, Array2<f32>)], samples: &[usize]) -> Result<Loss>;
}

/// A loss and its gradients.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean squared error.
    pub value: f32,
    /// The gradient of each given weight, [rows, cols]; `None` if the loss does not depend on it.
    pub gradients: Vec<Option<Array2<f32>>>,
}
