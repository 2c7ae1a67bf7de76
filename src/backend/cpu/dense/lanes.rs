//! Vectors of sixteen f32, in which the kernels are written; the formats of weights; and the arguments of a tile.
//!
//! Lane *i* belongs to row *i* of a panel. Products are added in the order of the columns, with one accumulator per
//! element of the output. So a result depends neither on the number of rows multiplied at once nor on the number of
//! threads.

use super::super::pages::Line;

/// A vector of 16 f32, in one or more registers.
pub(in super::super) trait FloatLanes: Copy {
    /// A loaded line.
    type Raw: Copy;

    /// Panels per tile.
    const PANELS: usize;
    /// Panels that a single row is multiplied with at once.
    const ROW_PANELS: usize;

    /// Returns the maximum number of rows of a tile whose sums stay in registers, for lines of `columns` columns.
    fn most_rows(columns: usize) -> usize;
    fn zero() -> Self;
    fn splat(value: f32) -> Self;
    /// Returns self + a·b, fused if the CPU can.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn raw(line: &Line) -> Self::Raw;
    /// Returns 16 f32.
    fn singles(raw: Self::Raw) -> Self;
    /// Returns the even and the odd columns of 16 pairs of bfloat16.
    fn pairs(raw: Self::Raw) -> [Self; 2];
    /// Returns two columns of 16 f16.
    fn halves(raw: Self::Raw) -> [Self; 2];
    /// Returns self + the products of 16 pairs of bfloat16 with one pair of inputs.
    fn add_pairs(self, raw: Self::Raw, inputs: [u16; 2]) -> Self;
    fn load(values: &[f32; 16]) -> Self;
    fn store(self, out: &mut [f32; 16]);
    /// Prefetches a line that will be needed; it need not exist.
    fn prefetch(line: *const Line);
    /// Computes a tile of at most [`FloatLanes::most_rows`] rows and [`FloatLanes::PANELS`] panels; a single row may
    /// have [`FloatLanes::ROW_PANELS`] panels.
    fn tile<F: Format>(args: &mut FloatTile<F::Input>, rows: usize, panels: usize);
}

/// The content of a panel's lines, and their product with inputs.
pub(in super::super) trait Format {
    /// An element of the inputs.
    type Input: Copy;
    /// A line that is ready to be multiplied.
    type Weights<V: FloatLanes>: Copy;
    /// Columns per line.
    const COLUMNS: usize;
    /// True if the inputs are bfloat16, too: some CPUs multiply such pairs. Kernels for them are compiled for no other format.
    const BFLOAT16_INPUTS: bool = false;

    fn load<V: FloatLanes>(line: &Line) -> Self::Weights<V>;
    /// Returns sum + the products of a line with [`Format::COLUMNS`] inputs.
    ///
    /// # Safety
    /// The pointer must be valid for reading this number of inputs.
    unsafe fn add<V: FloatLanes>(sum: V, weights: Self::Weights<V>, inputs: *const Self::Input) -> V;
}

/// The data that a tile reads and writes; its rows and panels are the first ones.
pub(in super::super) struct FloatTile<'a, I> {
    pub(super) inputs: &'a [I],
    pub(super) stride: usize,
    pub(super) weights: &'a [Line],
    /// Distance between panels, in lines.
    pub(super) panel_stride: usize,
    /// Multiplied lines of each panel.
    pub(super) lines: usize,
    /// True if `out` holds sums to continue from.
    pub(super) goes_on: bool,
    pub(super) width: usize,
    pub(super) out: &'a mut [f32],
    pub(super) out_stride: usize,
}

/// Converts the bits of a bfloat16.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
