//! NF4.

use ndarray::ArrayView2;

use super::Scheme;
use crate::tensor::{Grid, QTensor};

/// The min-max grid.
pub fn fit(_scheme: &Scheme, _w: ArrayView2<f32>) -> Grid {
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
