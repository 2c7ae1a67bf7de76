//! Softmax and its logarithm over a row of logits, as sampling, routing and evaluation need them.
//!
//! Sums run in f32 over 256 elements at most, then in f64: the error is that of exp, whatever the size of the vocabulary.

use super::functions::exp;
use super::level::Level;
use super::simd::{Kernel, LANES, Simd};

/// Elements summed in f32.
const RUN: usize = 256;

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut largest = simd.splat(f32::NEG_INFINITY);
        let (vectors, rest) = self.0.as_chunks::<LANES>();
        for vector in vectors {
            // In this order NaN is passed on.
            largest = simd.max(largest, simd.load(vector));
        }
        rest.iter().fold(simd.largest(largest), |a, &b| if a > b { a } else { b })
    }
}

/// Σ e^(x − shift).
struct ExpSum<'a> {
    x: &'a [f32],
    shift: f32,
}

impl Kernel for ExpSum<'_> {
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

/// x ← e^(x − shift)·factor, or only the difference where there is no factor.
struct Shift<'a> {
    x: &'a [f32],
    shift: f32,
    factor: Option<f32>,
    out: &'a mut [f32],
}

impl Kernel for Shift<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shift = simd.splat(self.shift);
        let Some(factor) = self.factor.map(|factor| simd.splat(factor)) else {
            return simd.zip(self.x, self.x, self.out, |x, _| simd.sub(x, shift));
        };
        simd.zip(self.x, self.x, self.out, |x, _| simd.mul(exp(simd, simd.sub(x, shift)), factor));
    }
}

/// The largest element and Σ e^(x − largest).
fn largest_and_sum(level: Level, x: &[f32]) -> (f32, f64) {
    let largest = level.run(Largest(x));
    // Where all are -∞, their differences must not be NaN.
    let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
    (shift, level.run(ExpSum { x, shift }))
}

/// ln Σ eˣ; -∞ of nothing.
pub(super) fn log_sum_exp_at(level: Level, x: &[f32]) -> f64 {
    let (largest, sum) = largest_and_sum(level, x);
    f64::from(largest) + sum.ln()
}

/// eˣ/Σ eˣ.
pub(super) fn softmax(level: Level, x: &[f32], out: &mut [f32]) {
    let (shift, sum) = largest_and_sum(level, x);
    level.run(Shift { x, shift, factor: Some((1.0 / sum) as f32), out });
}

/// ln Σ eˣ over a row of logits; -∞ of an empty row.
pub fn log_sum_exp(x: &[f32]) -> f64 {
    log_sum_exp_at(Level::detect(), x)
}

/// x − ln Σ eˣ over a row of logits.
///
/// # Panics
/// Where `out` is not of the length of `x`.
pub fn log_softmax(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "log_softmax: wrong output length");
    let level = Level::detect();
    let (largest, sum) = largest_and_sum(level, x);
    // In two steps: the logarithm of the sum is small beside large logits, and would lose its digits.
    level.run(Shift { x, shift: largest, factor: None, out });
    let log = sum.ln() as f32;
    out.iter_mut().for_each(|value| *value -= log);
}
