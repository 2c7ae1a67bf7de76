//! RMSNorm (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>) and LayerNorm (Ba et al. 2016,
//! <https://arxiv.org/abs/1607.06450>) over runs of columns: whole rows, or the heads of queries and keys.

use super::elementwise::by_rows;
use super::level::Level;
use super::simd::{Binary, LANES, LevelKernel, Simd};
use crate::backend::NormWeights;

struct NormalizeRuns<'a> {
    x: &'a [f32],
    norm: &'a NormWeights,
    out: &'a mut [f32],
}

impl LevelKernel for NormalizeRuns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let NormWeights { width, weight, epsilon, centered, .. } = self.norm;
        let runs = self.x.chunks_exact(*width).zip(self.out.chunks_exact_mut(*width));
        for ((x, out), weight) in runs.zip(weight.chunks_exact(*width).cycle()) {
            let mean = if *centered { sum(simd, x) / *width as f32 } else { 0.0 };
            let factor = 1.0 / (squares(simd, x, mean) / *width as f32 + epsilon).sqrt();
            simd.zip(x, weight, out, NormalizeElement { mean, factor });
        }
    }
}

/// The function (x − mean)·factor·weight.
#[derive(Clone, Copy)]
struct NormalizeElement {
    mean: f32,
    factor: f32,
}

impl Binary for NormalizeElement {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::V, weight: S::V) -> S::V {
        let centered = simd.sub(x, simd.splat(self.mean));
        simd.mul(simd.mul(centered, simd.splat(self.factor)), weight)
    }
}

/// Number of running sums per lane: they hide the latency of additions, and each stays short.
const SUMS: usize = 4;

/// Returns Σx.
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut sums = [simd.splat(0.0); SUMS];
    let (vectors, rest) = x.as_chunks::<LANES>();
    for vectors in vectors.chunks(SUMS) {
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            *sum = simd.add(*sum, simd.load(vector));
        }
    }
    total(simd, sums) + rest.iter().sum::<f32>()
}

/// Returns Σ(x − mean)².
#[inline(always)]
fn squares<S: Simd>(simd: S, x: &[f32], mean: f32) -> f32 {
    let mut sums = [simd.splat(0.0); SUMS];
    let (vectors, rest) = x.as_chunks::<LANES>();
    for vectors in vectors.chunks(SUMS) {
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            let deviation = simd.sub(simd.load(vector), simd.splat(mean));
            *sum = simd.mul_add(deviation, deviation, *sum);
        }
    }
    total(simd, sums) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()
}

#[inline(always)]
fn total<S: Simd>(simd: S, [a, b, c, d]: [S::V; SUMS]) -> f32 {
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}

/// Normalizes every run of `norm.width` columns of x, [rows, cols]; `out` has the same shape.
///
/// # Panics
/// If the columns are no multiple of the number of weights, or that number is no multiple of the width.
pub(super) fn normalize(level: Level, x: &[f32], norm: &NormWeights, cols: usize, out: &mut [f32]) {
    let weights = norm.weight.len();
    assert!(weights > 0 && cols.is_multiple_of(weights), "norm: {cols} columns for {weights} weights");
    assert!(weights.is_multiple_of(norm.width), "norm: {weights} weights for a width of {}", norm.width);
    by_rows(out, cols, |first, out| {
        let x = &x[first * cols..][..out.len()];
        level.run(NormalizeRuns { x, norm, out });
        if let Some(bias) = &norm.bias {
            for run in out.chunks_exact_mut(weights) {
                run.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(x: &[f32], norm: &NormWeights, run: usize) -> Vec<f64> {
        let width = norm.width as f64;
        let mean = if norm.centered { x.iter().map(|&x| f64::from(x)).sum::<f64>() / width } else { 0.0 };
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width;
        let factor = (variance + f64::from(norm.epsilon)).sqrt().recip();
        let at = run * norm.width % norm.weight.len();
        let bias = norm.bias.as_ref().map_or(vec![0.0; norm.weight.len()], Clone::clone);
        let terms = x.iter().zip(&norm.weight[at..]).zip(&bias[at..]);
        terms.map(|((&x, &w), &b)| (f64::from(x) - mean) * factor * f64::from(w) + f64::from(b)).collect()
    }

    #[test]
    fn widths_around_whole_vectors() {
        for width in [1, 15, 16, 17, 64, 80, 100, 576, 1030] {
            for (weights, centered) in [(1, false), (1, true), (2, true)] {
                let weight: Vec<f32> = (0..weights * width).map(|i| 0.5 + (i % 7) as f32 / 7.0).collect();
                let bias = centered.then(|| weight.iter().map(|w| w - 1.0).collect());
                let norm = NormWeights { width, weight, bias, epsilon: 1e-5, centered };
                // The mean is not zero, but the padding of the last vector is.
                let x: Vec<f32> = (0..4 * width).map(|i| 3.0 + (i as f32 * 0.7).sin()).collect();
                for level in Level::usable() {
                    let mut out = vec![f32::NAN; x.len()];
                    normalize(level, &x, &norm, 2 * width, &mut out);
                    for (run, (x, out)) in x.chunks(width).zip(out.chunks(width)).enumerate() {
                        for (found, expected) in out.iter().zip(expected(x, &norm, run)) {
                            let near = (f64::from(*found) - expected).abs() <= 1e-4 * (1.0 + expected.abs());
                            assert!(near, "{level:?} {width} {weights} {centered}: {found}, not {expected}");
                        }
                    }
                }
            }
        }
    }
}
