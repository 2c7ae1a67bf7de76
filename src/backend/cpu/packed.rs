//! What a packed weight is to the linear layer that holds it: panels of [`PANEL`] rows, multiplied with inputs in the
//! form that its kernel wants.

use std::ops::Range;

pub(super) use super::inputs::{Form, Inputs};

/// Rows of a weight (columns of the output) per panel: the lanes of one AVX-512 register, two of AVX2.
pub(super) const PANEL: usize = 16;

/// A weight [rows, cols] packed for one kind of kernel.
pub(super) trait Packed: Send + Sync {
    /// [rows, cols].
    fn shape(&self) -> [usize; 2];
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// The form in which it takes inputs.
    fn form(&self) -> Form;
    /// out[i·stride + j] = Σₖ x[rows.start + i, k]·w[panels.start·PANEL + j, k], for the rows of `x` in `rows` and the rows
    /// of the weight in `panels` (the last panel of a weight may be short: only existing rows are written).
    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize);
}

/// A weight that can show a panel in f32: how every stored form can be multiplied with f32 inputs.
pub(super) trait Unpack: Send + Sync {
    /// [rows, cols].
    fn shape(&self) -> [usize; 2];
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// Writes a panel, [cols, PANEL]: element (k, lane) is w[panel·PANEL + lane, k]; lanes without a row are zero.
    fn unpack(&self, panel: usize, out: &mut [f32]);
}
