//! The numbers of a block: codes, scales and minimums.

use half::f16;

use super::block::{BLOCK, PerWeight};

/// Weights of the largest block.
const MOST: usize = 256;

/// The numbers of a block. Those beyond its weights and groups have no meaning.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parts {
    /// Unit of the scales.
    pub d: f16,
    /// Unit of the minimums.
    pub dmin: f16,
    /// One per group: 1 if the type has none of its own.
    pub scales: [i8; 16],
    /// One per group: 1 if the type has none of its own.
    pub minimums: [u8; 16],
    /// One per weight, in order.
    pub codes: [u8; MOST],
}

impl Parts {
    /// Returns the numbers of a block of 32 weights that are one group.
    #[inline(always)]
    pub(super) fn of_one_group(d: f16, dmin: f16, block: PerWeight<u8>) -> Parts {
        let mut codes = [0; MOST];
        codes[..BLOCK].copy_from_slice(&block);
        Parts { d, dmin, scales: [1; 16], minimums: [1; 16], codes }
    }
}
