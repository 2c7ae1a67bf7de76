//! Integers of 2 to 8 bits.
//!
//! The grid is that of the reference observer of compressed-tensors (`memoryless_minmax`,
//! <https://github.com/vllm-project/compressed-tensors>, `quantization/utils/helpers.py`, `calculate_qparams`):
//!
//! - symmetric: scale = absmax / ((2^b − 1)/2), q = clamp(round(w/scale)) in −2^(b−1)..2^(b−1)−1;
//! - asymmetric: min ≤ 0 ≤ max, scale = (max − min)/(2^b − 1), zero point = clamp(round(−2^(b−1) − min/scale)).
//!
//! Rounding is half to even. Scales are rounded to their stored type first. Arithmetic is in f32, where the reference
//! computes in the type of the weights: from the same bf16 scale, its w/scale is once more rounded to bf16, which moves
//! codes near a tie by one; ours are the nearest ones. A group of zeros takes the type's machine epsilon as its scale.
//! NaN (which `io` refuses by default) becomes the lowest code.

use ndarray::ArrayView2;

use super::codec::{self, Codec};
use super::{Cells, Column, Context, Extent, Grid, Number, QTensor, ScaleType, Scheme, simd};

/// Integer codes, unsigned: the signed integer plus `offset`.
struct Int {
    /// Smallest signed integer.
    min: f32,
    /// Largest signed integer.
    max: f32,
    /// 2^(bits−1).
    offset: f32,
}

/// 1.5·2^23: a float this large has no fraction, so that adding it rounds half to even and leaves the integer in the
/// low bits.
const ROUNDER: f32 = 12_582_912.0;

impl Int {
    /// # Panics
    /// Where the scheme is not one of integers.
    fn new(scheme: &Scheme) -> Int {
        let Number::Int { bits } = scheme.number else { panic!("an integer codec given {scheme:?}") };
        let offset = f32::from(1u16 << (bits - 1));
        Int { min: -offset, max: offset - 1.0, offset }
    }
}

impl Codec for Int {
    #[inline(always)]
    fn encode(&self, scaled: f32, zero: f32) -> u8 {
        let clamped = simd::min(simd::max(scaled + zero, self.min), self.max);
        (clamped + (ROUNDER + self.offset)).to_bits() as u8
    }

    #[inline(always)]
    fn decode(&self, code: u8, zero: f32) -> f32 {
        (f32::from(code) - self.offset) - zero
    }
}

/// The min-max grid.
pub fn fit(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
    let int = Int::new(scheme);
    let steps = int.max - int.min;
    if scheme.symmetric {
        let absmax = codec::absmax(scheme, w, context);
        let scales = absmax.into_iter().map(|absmax| scheme.scale.covering(absmax, steps / 2.0)).collect();
        return Grid { scales, ..Grid::default() };
    }
    let cells = codec::extents(scheme, w, context);
    let (scales, zero_points) = cells.into_iter().map(|cell| int.fit_extent(cell, scheme.scale)).unzip();
    Grid { scales, zero_points, global_scale: None }
}

impl Int {
    /// Scale and zero point (in the domain of the codes) of a cell. Zeros alone get the middle code, which every format
    /// can store (GPTQ v1 stores z − 1).
    fn fit_extent(&self, cell: Extent, kind: ScaleType) -> (f32, u8) {
        let (low, high) = (cell.min.min(0.0), cell.max.max(0.0));
        if low == high {
            return (kind.of_zeros(), self.offset as u8);
        }
        let scale = kind.covering(high - low, self.max - self.min);
        let zero = (self.min - low / scale).clamp(self.min, self.max).round_ties_even();
        (scale, (zero + self.offset) as u8)
    }

    /// Zero points as signed integers.
    fn zeros(&self, grid: &Grid) -> Vec<f32> {
        grid.zero_points.iter().map(|&zero| f32::from(zero) - self.offset).collect()
    }
}

/// Rounds to the nearest codes.
pub fn round(scheme: &Scheme, w: ArrayView2<f32>, grid: &Grid) -> Vec<u8> {
    let int = Int::new(scheme);
    let zeros = int.zeros(grid);
    codec::round(int, scheme, w, &grid.scales, &zeros)
}

/// The grid as the codec reads it.
pub fn cells(scheme: &Scheme, grid: &Grid) -> Cells {
    let zeros = if scheme.symmetric { vec![0.0; grid.scales.len()] } else { Int::new(scheme).zeros(grid) };
    Cells { scales: grid.scales.clone(), zeros }
}

/// Rounds a column of several rows.
pub fn round_column(scheme: &Scheme, column: Column) {
    column.round(Int::new(scheme));
}

/// Squared error per grid entry.
pub fn squared_errors(
    scheme: &Scheme,
    w: ArrayView2<f32>,
    grid: &Grid,
    importance: Option<&[f32]>,
) -> Vec<f32> {
    let int = Int::new(scheme);
    let zeros = int.zeros(grid);
    codec::squared_errors(int, scheme, w, &grid.scales, &zeros, importance)
}

/// Codes → values: (code − zero point)·scale.
pub fn dequantize(q: &QTensor, out: &mut [f32]) {
    let int = Int::new(&q.scheme);
    let zeros = int.zeros(&q.grid);
    codec::dequantize(int, q, &q.grid.scales, &zeros, out);
}
