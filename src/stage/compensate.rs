//! Compensating stages: low-rank factors that correct the error of codes.

use std::fmt::Debug;

use super::block::Block;
use crate::error::Result;
use crate::numerics::LowRank;
use crate::statistics::Needs;

/// A method that corrects the error of the quantizing stage before it. It is given the same part of the block as that
/// stage, before any later linear reads the outputs.
pub trait Compensate: Send + Sync + Debug {
    /// The statistics of the inputs that it reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// The rank of the factors.
    fn rank(&self) -> usize;

    /// Returns the factors of each linear. `errors` holds the error W − Q of each linear in the place of its weight.
    fn compensate(&self, errors: &Block) -> Result<Vec<LowRank>>;
}
