//! Rewriting stages: the model computes the same, and later stages lose less.

use std::fmt::Debug;

use ndarray::Array2;

use super::block::Block;
use super::edits::Edits;
use crate::error::Result;
use crate::statistics::Needs;

/// A method that edits the weights and norms of a block such that the model computes the same. The weights stay dense.
pub trait Rewrite: Send + Sync + Debug {
    /// The statistics of the inputs that it reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Returns the edits of a whole block.
    fn rewrite(&self, block: &Block) -> Result<Edits>;

    /// Returns true if weights that are zero stay so.
    fn keeps_zeros(&self) -> bool {
        true
    }

    /// The edits outside the blocks, for a method that changes the residual stream.
    fn ends(&self) -> Option<&dyn Ends> {
        None
    }
}

/// Edits of the matrices at the two ends of the residual stream.
pub trait Ends: Send + Sync {
    /// Rewrites rows of the token embedding, [tokens, hidden].
    fn embedding(&self, rows: &mut Array2<f32>) -> Result<()>;

    /// Rewrites rows of the output head, [tokens, hidden]. They read the stream through the final norm, whose weight is
    /// given and becomes one.
    fn head(&self, rows: &mut Array2<f32>, final_norm: &[f32]) -> Result<()>;
}
