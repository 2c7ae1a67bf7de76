//! Results that linears with the same input share.

use super::block::BlockLinear;
use crate::error::Result;

/// A result for each input of a block's linears. Linears that share an input follow each other: one result is in memory at a
/// time.
#[derive(Debug)]
pub(crate) struct PerInput<T>(Option<(Option<usize>, T)>);

impl<T> PerInput<T> {
    /// Starts with none.
    pub(crate) fn new() -> PerInput<T> {
        PerInput(None)
    }

    /// Returns the result for a linear's input, which `make` computes for the first linear that reads it.
    ///
    /// # Errors
    /// The errors of `make`.
    pub(crate) fn of(&mut self, linear: &BlockLinear, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        let last = match self.0.take().filter(|(input, _)| *input == linear.input) {
            Some(same) => same,
            None => (linear.input, make()?),
        };
        Ok(&self.0.insert(last).1)
    }
}
