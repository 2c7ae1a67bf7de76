//! The interface between packed weights and the linear layer: panels of [`PANEL`] rows, multiplied with inputs in the
//! form that the weight's kernel needs.

use std::ops::Range;

pub(super) use super::inputs::{InputForm, Inputs};

/// Rows of a weight (columns of the output) per panel: the lanes of one AVX-512 register, or two of AVX2.
pub(super) const PANEL: usize = 16;

/// A weight [rows, cols] packed for one kind of kernel.
pub(super) trait PackedWeight: Send + Sync {
    /// Returns [rows, cols].
    fn shape(&self) -> [usize; 2];
    /// Returns the bytes held.
    fn bytes(&self) -> usize;
    /// Returns the form of its inputs.
    fn form(&self) -> InputForm;
    /// Computes out[i·stride + j] = Σₖ x[rows.start + i, k]·w[panels.start·PANEL + j, k] for the rows of `x` in `rows`
    /// and the rows of the weight in `panels`. The last panel of a weight may be short: only existing rows are written.
    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize);
}

/// A weight that can unpack a panel to f32, so that any stored form can be multiplied with f32 inputs.
pub(super) trait UnpackPanels: Send + Sync {
    /// Returns [rows, cols].
    fn shape(&self) -> [usize; 2];
    /// Returns the bytes held.
    fn bytes(&self) -> usize;
    /// Writes a panel, [cols, PANEL]: element (k, lane) is w[panel·PANEL + lane, k]; lanes without a row are zero.
    fn unpack(&self, panel: usize, out: &mut [f32]);
}
