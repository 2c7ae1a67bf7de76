//! Integers of 2 to 8 bits.
//!
//! The grid is that of the reference observer of compressed-tensors (`memoryless_minmax`,
//! <https://github.com/vllm-project/compressed-tensors>, `quantization/utils/helpers.py`, `calculate_qparams`):
//!
//! - symmetric: scale = absmax / ((2^b − 1)/2), q = clamp(round(w/scale)) in −2^(b−1)..2^(b−1)−1;
//! - asymmetric: min ≤ 0 ≤ max, scale = (max − min)/(2^b − 1), zero point = clamp(round(−2^(b−1) − min/scale)).
//!
//! Rounding is half to even. Scales are rounded to their stored type first. Arithmetic is in f32; the reference computes in
//! the type of the weights: from the same bf16 scale, its w/scale is once more rounded to bf16, which moves codes near a
//! tie by one; ours are the nearest ones. A group of zeros takes the type's machine epsilon as its scale.
//! NaN (which `io` refuses by default) becomes the lowest code.

use ndarray::ArrayView2;

use super::codec::Codec;
use super::extremes;
use super::{Context, Extent, Grid, ScaleType, Scheme, simd};

/// Integer codes, unsigned: the signed integer plus `offset`.
pub(crate) struct IntCodec {
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

impl IntCodec {
    /// Creates the codec of 2 to 8 bits.
    pub(crate) fn new(bits: u8) -> IntCodec {
        let offset = f32::from(1u16 << (bits - 1));
        IntCodec { min: -offset, max: offset - 1.0, offset }
    }
}

impl Codec for IntCodec {
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

/// Returns the min-max grid.
pub(crate) fn fit(scheme: &Scheme, bits: u8, w: ArrayView2<f32>, context: &Context) -> Grid {
    let int = IntCodec::new(bits);
    if scheme.symmetric {
        return extremes::fit_absmax(scheme, w, context, (int.max - int.min) / 2.0);
    }
    let cells = extremes::extents(scheme, w, context);
    let (scales, zero_points) = cells.into_iter().map(|cell| int.fit_extent(cell, scheme.scale)).unzip();
    Grid { scales, zero_points, global_scale: None }
}

impl IntCodec {
    /// Returns the scale and zero point (in the domain of the codes) of a cell. A cell of zeros gets the middle code, which
    /// every format can store (GPTQ v1 stores z − 1).
    fn fit_extent(&self, cell: Extent, kind: ScaleType) -> (f32, u8) {
        let (low, high) = (cell.min.min(0.0), cell.max.max(0.0));
        if low == high {
            return (kind.of_zeros(), self.offset as u8);
        }
        let scale = kind.covering(high - low, self.max - self.min);
        let zero = (self.min - low / scale).clamp(self.min, self.max).round_ties_even();
        (scale, (zero + self.offset) as u8)
    }
}
