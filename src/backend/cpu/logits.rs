//! Softmax and its logarithm over a row of logits, for sampling, routing and evaluation.
//!
//! Sums run in f32 over at most 256 elements, then in f64: the error is that of exp, for any size of the vocabulary.

use super::functions::exp;
use super::level::Level;
use super::simd::{LANES, LevelKernel, Simd, Unary};

/// Elements summed in f32.
const RUN: usize = 256;

struct Largest<'a>(&'a [f32]);

impl LevelKernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut largest = simd.splat(f32::NEG_INFINITY);
        let (vectors, rest) = self.0.as_chunks::<LANES>();
        for vector in vectors {
            // This order of arguments propagates NaN.
            largest = simd.max(largest, simd.load(vector));
        }
        rest.iter().fold(simd.largest(largest), |a, &b| if a > b { a } else { b })
    }
}

/// The sum Σ e^(x − shift).
struct ExpSum<'a> {
    x: &'a [f32],
    shift: f32,
}

impl LevelKernel for ExpSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let shift = simd.splat(self.shift);
        let mut total = 0.0;
        for run in self.x.chunks(RUN) {
            let (vectors, rest) = run.as_chunks::<LANES>();
            let mut sum = simd.splat(0.0);
            for vector in vectors {
                sum = simd.add(sum, exp(simd, simd.sub(simd.load(vector), shift)));
            }
            total += f64::from(simd.sum(sum));
            if !rest.is_empty() {
                let mut lanes = [f32::NEG_INFINITY; LANES];
                lanes[..rest.len()].copy_from_slice(rest);
                total += f64::from(simd.sum(exp(simd, simd.sub(simd.load(&lanes), shift))));
            }
        }
        total
    }
}

/// The operation x ← e^(x − shift)·factor.
struct Exponentiate<'a> {
    x: &'a mut [f32],
    function: ShiftedExp,
}

#[derive(Clone, Copy)]
struct ShiftedExp {
    shift: f32,
    factor: f32,
}

impl Unary for ShiftedExp {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::V) -> S::V {
        simd.mul(exp(simd, simd.sub(x, simd.splat(self.shift))), simd.splat(self.factor))
    }
}

impl LevelKernel for Exponentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.map(self.x, self.function);
    }
}

/// The sum Σ p·(ln p − ln q) over ln p above `floor`; ln p is `base`, and ln q is x − log_sum_exp.
#[derive(Clone, Copy)]
struct Divergence<'a> {
    base: &'a [f32],
    x: &'a [f32],
    log_sum_exp: f32,
    floor: f32,
}

impl Divergence<'_> {
    #[inline(always)]
    fn terms<S: Simd>(&self, simd: S, base: &[f32; LANES], x: &[f32; LANES]) -> S::V {
        let base = simd.load(base);
        let log_q = simd.sub(simd.load(x), simd.splat(self.log_sum_exp));
        let terms = simd.mul(exp(simd, base), simd.sub(base, log_q));
        simd.where_less(simd.splat(self.floor), base, terms, simd.splat(0.0))
    }
}

impl LevelKernel for Divergence<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut total = 0.0;
        for (base, x) in self.base.chunks(RUN).zip(self.x.chunks(RUN)) {
            let ((bases, base_rest), (xs, x_rest)) = (base.as_chunks(), x.as_chunks());
            let mut sum = simd.splat(0.0);
            for (base, x) in bases.iter().zip(xs) {
                sum = simd.add(sum, self.terms(simd, base, x));
            }
            if !base_rest.is_empty() {
                let (mut base, mut x) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
                base[..base_rest.len()].copy_from_slice(base_rest);
                x[..x_rest.len()].copy_from_slice(x_rest);
                sum = simd.add(sum, self.terms(simd, &base, &x));
            }
            total += f64::from(simd.sum(sum));
        }
        total
    }
}

/// Returns the largest element and Σ e^(x − largest).
fn largest_and_sum(level: Level, x: &[f32]) -> (f32, f64) {
    let largest = level.run(Largest(x));
    // If all elements are −∞, their differences must not be NaN.
    let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
    (shift, level.run(ExpSum { x, shift }))
}

/// Returns ln Σ eˣ; −∞ for an empty slice.
pub(super) fn log_sum_exp_at(level: Level, x: &[f32]) -> f64 {
    let (largest, sum) = largest_and_sum(level, x);
    f64::from(largest) + sum.ln()
}

/// Computes x ← eˣ/Σ eˣ.
pub(super) fn softmax(level: Level, x: &mut [f32]) {
    let (shift, sum) = largest_and_sum(level, x);
    level.run(Exponentiate { x, function: ShiftedExp { shift, factor: (1.0 / sum) as f32 } });
}

/// Returns ln Σ eˣ over a row of logits; −∞ for an empty row.
pub(crate) fn log_sum_exp(x: &[f32]) -> f64 {
    log_sum_exp_at(Level::detect(), x)
}

fn divergence_at(level: Level, base: &[f32], x: &[f32], log_sum_exp: f32, floor: f32) -> f64 {
    assert_eq!(base.len(), x.len(), "divergence: rows of two lengths");
    // Below −104, e^x is 0 in f32, and 0·∞ would be NaN.
    level.run(Divergence { base, x, log_sum_exp, floor: floor.max(-104.0) })
}

/// Returns the divergence Σ p·(ln p − ln q) of a row of logits `x` from the log-probabilities `base`. The sum is over
/// values of `base` larger than `floor`; `log_sum_exp` is the [`log_sum_exp`] of `x`.
///
/// # Panics
/// If the rows have different lengths.
pub(crate) fn divergence(base: &[f32], x: &[f32], log_sum_exp: f32, floor: f32) -> f64 {
    divergence_at(Level::detect(), base, x, log_sum_exp, floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_f64(x: &[f32]) -> f64 {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let difference = |x: &f32| f64::from(*x) - f64::from(largest);
        f64::from(largest) + x.iter().map(|x| difference(x).exp()).sum::<f64>().ln()
    }

    /// Returns logits like those of models: most are far below a few others.
    fn logits(len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|i| size * (i as f32 * 0.7).sin() - (i % 977) as f32 * 0.01).collect()
    }

    #[test]
    fn agrees_with_f64_over_any_vocabulary() {
        for len in [1, 2, 15, 16, 17, 255, 256, 257, 49_152, 256_001] {
            for size in [0.0, 1.0, 15.0, 1e4] {
                let x = logits(len, size);
                let expected = in_f64(&x);
                for level in Level::usable() {
                    let error = (log_sum_exp_at(level, &x) - expected).abs();
                    assert!(error <= 1e-6 * expected.abs().max(1.0), "{level:?} {len} {size}: {error}");
                }
            }
        }
    }

    #[test]
    fn divergence_agrees_with_f64() {
        for len in [1, 2, 15, 16, 17, 255, 256, 257, 49_152] {
            let (x, y) = (logits(len, 7.0), logits(len, 5.0));
            let (of_x, of_y) = (in_f64(&x), in_f64(&y));
            let base: Vec<f32> = y.iter().map(|y| y - of_y as f32).collect();
            for floor in [f32::NEG_INFINITY, -9.0] {
                let terms = base.iter().zip(&x).filter(|(base, _)| **base > floor);
                let expected: f64 = terms
                    .map(|(base, x)| (f64::from(*base), f64::from(*x) - of_x))
                    .map(|(base, x)| base.exp() * (base - x))
                    .sum();
                for level in Level::usable() {
                    let error = (divergence_at(level, &base, &x, of_x as f32, floor) - expected).abs();
                    assert!(error < 3e-6, "{level:?} {len} above {floor}: {error}");
                }
            }
            assert_eq!(divergence(&base, &y, of_y as f32, f32::NEG_INFINITY), 0.0, "itself");
        }
        let never = [f32::NEG_INFINITY, 0.0];
        assert_eq!(divergence(&never, &[5.0, 1.0], 1.0, f32::NEG_INFINITY), 0.0);
        assert_eq!(divergence(&[0.0, 0.0], &[f32::NEG_INFINITY, 0.0], 0.0, -1.0), f64::INFINITY);
    }

    #[test]
    fn nothing_and_the_impossible_have_their_limits() {
        let infinite = f32::NEG_INFINITY;
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[infinite; 20]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[infinite, 3.0]), 3.0);
        assert!(log_sum_exp(&[0.0; 40].map(|_: f32| f32::NAN)).is_nan());
        assert!(log_sum_exp(&[1.0, f32::NAN, 2.0]).is_nan());
        assert_eq!(log_sum_exp(&[1e38; 3]), f64::from(1e38f32) + 3f64.ln());
    }
}
