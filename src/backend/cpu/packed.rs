//! What a packed weight is to the linear layer that holds it: panels of [`PANEL`] rows, multiplied with inputs in the
//! form that its kernel wants.

use std::ops::Range;

/// Rows of a weight (columns of the output) per panel: the lanes of one AVX-512 register, two of AVX2.
pub(super) const PANEL: usize = 16;

/// How inputs are given to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    F32,
    /// Rounded to bfloat16.
    Bf16,
    /// 8-bit integers under one f32 scale per so many columns.
    Int8 {
        /// Columns per scale.
        group: usize,
    },
}

/// Rows of inputs in one form, prepared once for all the weights that share them.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Rows.
    pub rows: usize,
    /// Columns held per row: those of the weight, rounded up to what the form needs, the rest zero.
    pub stride: usize,
    /// [rows, stride] where the form is `F32`.
    pub values: Vec<f32>,
    /// [rows, stride] bit patterns where it is `Bf16`.
    pub halves: Vec<u16>,
    /// [rows, stride] where it is `Int8`, within -127..=127.
    pub codes: Vec<i8>,
    /// [rows, stride/group].
    pub scales: Vec<f32>,
    /// Sum of each group's codes, [rows, stride/group]: for weights with zero points or offsets.
    pub sums: Vec<i32>,
}

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
