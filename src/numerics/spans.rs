//! The walk over the cells of a grid.
//!
//! A *cell* is the set of elements that share a grid entry; a *span* is the part of a cell that lies in one row, which is
//! consecutive.

use std::ops::Range;

use super::{Granularity, Scheme};

/// Elements that a loop handles at a time: two AVX2 registers of f32, and NVFP4's group.
pub(crate) const CHUNK: usize = 16;

/// The division of the rows of a tensor into spans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans {
    /// Columns of a row.
    pub cols: usize,
    /// Columns of a span; the last one of a row may be short.
    pub width: usize,
    /// Rows of a cell.
    height: usize,
    /// Entries that a row touches.
    per_row: usize,
}

impl Spans {
    /// Divides rows of `cols` columns.
    pub(crate) fn new(scheme: &Scheme, cols: usize) -> Spans {
        let height = match scheme.granularity {
            Granularity::Tensor => usize::MAX,
            _ => scheme.row_multiple(),
        };
        let width = scheme.width(cols);
        Spans { cols: cols.max(1), width, height, per_row: cols.div_ceil(width) }
    }

    /// Returns the grid entries of a row's spans, in order.
    #[inline(always)]
    pub(crate) fn entries(&self, row: usize) -> Range<usize> {
        let first = row / self.height * self.per_row;
        first..first + self.per_row
    }
}
