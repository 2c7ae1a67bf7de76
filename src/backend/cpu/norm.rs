//! RMSNorm (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>) and LayerNorm (Ba et al. 2016,
//! <https://arxiv.org/abs/1607.06450>) over runs of columns: whole rows, or the heads of queries and keys.

use super::elementwise::by_rows;
use super::level::Level;
use super::simd::{Kernel, LANES, Simd};
use crate::backend::NormWeights;

struct Normalize<'a> {
    x: &'a [f32],
    norm: &'a NormWeights,
    out: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let NormWeights { width, weight, epsilon, centered, .. } = self.norm;
        let runs = self.x.chunks_exact(*width).zip(self.out.chunks_exact_mut(*width));
        for ((x, out), weight) in runs.zip(weight.chunks_exact(*width).cycle()) {
            let mean = if *centered { sum(simd, x, |v| v) / *width as f32 } else { 0.0 };
            let squares = if *centered { squared_deviations(simd, x, mean) } else { squared(simd, x) };
            let factor = simd.splat(1.0 / (squares / *width as f32 + epsilon).sqrt());
            let mean = simd.splat(mean);
            simd.zip(x, weight, out, |v, w| simd.mul(simd.mul(simd.sub(v, mean), factor), w));
        }
    }
}

#[inline(always)]
fn squared<S: Simd>(simd: S, x: &[f32]) -> f32 {
    sum(simd, x, |v| simd.mul(v, v))
}

/// Σ(x − mean)². The zeros that fill up the last vector would count as mean², so that what is left over is summed apart.
#[inline(always)]
fn squared_deviations<S: Simd>(simd: S, x: &[f32], mean: f32) -> f32 {
    let (whole, rest) = x.split_at(x.len() / LANES * LANES);
    let shift = simd.splat(mean);
    let deviation = |v| simd.sub(v, shift);
    let squares = sum(simd, whole, |v| simd.mul(deviation(v), deviation(v)));
    squares + rest.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>()
}

/// Σf(x), in four running sums per lane; f(0) must be 0.
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32], f: impl Fn(S::V) -> S::V) -> f32 {
    let mut sums = [simd.splat(0.0); 4];
    let (vectors, rest) = x.as_chunks::<LANES>();
    for four in vectors.chunks(4) {
        for (sum, vector) in sums.iter_mut().zip(four) {
            *sum = simd.add(*sum, f(simd.load(vector)));
        }
    }
    if !rest.is_empty() {
        sums[3] = simd.add(sums[3], f(simd.load_part(rest)));
    }
    let [a, b, c, d] = sums;
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}

/// Normalizes every run of `norm.width` columns of x, [rows, cols]; `out` is of its shape.
///
/// # Panics
/// Where the columns are no whole number of the norm's weights, or these of its width.
pub(super) fn normalize(level: Level, x: &[f32], norm: &NormWeights, cols: usize, out: &mut [f32]) {
    let weights = norm.weight.len();
    assert!(weights > 0 && cols.is_multiple_of(weights), "norm: {cols} columns for {weights} weights");
    assert!(weights.is_multiple_of(norm.width), "norm: {weights} weights for a width of {}", norm.width);
    by_rows(out, cols, |first, out| {
        let x = &x[first * cols..][..out.len()];
        level.run(Normalize { x, norm, out });
        if let Some(bias) = &norm.bias {
            for run in out.chunks_exact_mut(weights) {
                run.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    });
}
