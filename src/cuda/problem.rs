//! [`Problem`]: the description of a product from which a kernel is chosen.

use super::layout::DEPTH;
use super::types::Bits;

/// The properties of a product that the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Bits of a code.
    pub bits: Bits,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// True if there is a bias.
    pub bias: bool,
    /// True if the inputs are rounded to INT8.
    pub rounded: bool,
}

impl Problem {
    /// Returns the number of columns with padding.
    pub(super) fn depth(&self) -> usize {
        self.size[2].next_multiple_of(DEPTH)
    }
}
