//! Integers of 2 to 8 bits.

use ndarray::ArrayView2;

use super::{Context, Scheme};
use crate::tensor::{Grid, QTensor};

/// The min-max grid.
pub fn fit(_scheme: &Scheme, _w: ArrayView2<f32>, _context: &Context) -> Grid {
    todo!()
}

/// Rounds to the nearest codes.
pub fn round(_scheme: &Scheme, _w: ArrayView2<f32>, _grid: &Grid) -> Vec<u8> {
    todo!()
}

/// Codes → values.
pub fn dequantize(_q: &QTensor, _out: &mut [f32]) {
    todo!()
}
