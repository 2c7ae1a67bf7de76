//! Random numbers and matrices for the unit tests, the integration tests and the benches: the same for the same seed, on
//! every machine. The module that includes this file imports `SplitMix64`.
#![allow(dead_code)] // No test uses all of it.

use ndarray::Array2;

use super::SplitMix64;

/// Returns a number in [−1, 1).
pub fn signed(random: &mut SplitMix64) -> f32 {
    (2.0 * random.unit() - 1.0) as f32
}

/// Returns a matrix of numbers in [−1, 1).
pub fn uniform(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut random = SplitMix64(seed);
    Array2::from_shape_simple_fn((rows, cols), || signed(&mut random))
}

/// Returns a matrix of standard normal numbers.
pub fn normal(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut random = SplitMix64(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
}

/// Returns the largest of some magnitudes, 0 of none, and NaN if one is NaN: a comparison with a bound then fails.
pub fn largest<T: Into<f64>>(magnitudes: impl IntoIterator<Item = T>) -> f64 {
    let larger = |most: f64, x: f64| if most.is_nan() || x <= most { most } else { x };
    magnitudes.into_iter().map(Into::into).fold(0.0, larger)
}
