//! Checks of kernels: their outputs for random numbers against sums in float64.
//!
//! For large products only some outputs are compared, including the first and the last. Outputs are filled with NaN
//! beforehand, so that an unwritten one is noticed.

use rayon::prelude::*;
use serde::Serialize;

use super::operands::{Operands, ProductCase};
use crate::cuda::choice::{Choice, ProductKernel};
use crate::cuda::dequantize::dequantize;
use crate::cuda::device::Device;
use crate::cuda::linear::multiply;
use crate::cuda::matrix::{Matrix, Weight};
use crate::cuda::product::PackedProduct;
use crate::cuda::quantize_activations::{QuantizedActivations, quantize_activations};
use crate::cuda::types::Half;
use crate::cuda::w8a8::{Int8Product, w8a8};
use crate::cuda::workspace::Workspace;
use crate::error::Result;
use crate::numerics::{QTensor, ScalarCodes};

/// The accuracy of a kernel's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Number of compared outputs.
    pub outputs: usize,
    /// The largest error, in units of the error that rounding explains: above 1 is wrong. Infinite if an output is NaN.
    pub worst: f64,
}

impl Accuracy {
    /// Returns true if rounding explains the error.
    pub(crate) fn holds(self) -> bool {
        self.worst <= 1.0
    }

    fn of(errors: impl Iterator<Item = f64>) -> Accuracy {
        let nothing = Accuracy { outputs: 0, worst: 0.0 };
        errors.fold(nothing, |all, error| {
            let error = if error.is_nan() { f64::INFINITY } else { error };
            Accuracy { outputs: all.outputs + 1, worst: all.worst.max(error) }
        })
    }
}

/// Maximum number of float64 multiplications of a check.
const MOST_TERMS: usize = 1 << 28;

/// Relative error of accumulating in f32, of the sum of magnitudes.
const ACCUMULATED: f64 = 2e-6;

/// Checks y = x·Wᵀ + bias with a choice of kernel.
///
/// # Errors
/// The errors of the wrappers and the device.
pub fn check_product(
    device: &dyn Device,
    case: &ProductCase,
    choice: Choice,
    seed: u64,
    workspace: &mut Workspace,
) -> Result<Accuracy> {
    let operands = Operands::new(case, seed)?;
    let [m, n, k] = case.size;
    let mut uploaded = operands.upload(device, m)?;
    let bias = uploaded.bias.as_ref();
    let mut product = PackedProduct { weight: &uploaded.weight, x: &uploaded.x, bias, y: &mut uploaded.y };
    multiply(device, &mut product, choice, workspace)?;
    let y = uploaded.y.download(device)?;
    // Tile kernels round weights to half precision; the kernels for few rows never round code·scale.
    let half = case.weights.half;
    let rounded =
        matches!(choice.kernel, ProductKernel::Gemm(_) | ProductKernel::GemmSm90 | ProductKernel::Dequantize);
    let errors = sampled(n, MOST_TERMS / (m * k)).into_par_iter().flat_map_iter(|row| {
        let w = weights(&operands.q, row, rounded.then_some(half));
        let start = operands.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let (x, y) = (&operands.x, &y);
        (0..m).map(move |i| {
            let terms = x[i * k..(i + 1) * k].iter().zip(&w).map(|(x, w)| f64::from(*x) * w);
            let (sum, size) = terms.fold((start, start.abs()), |(s, a), t| (s + t, a + t.abs()));
            let bound = bound(half, sum) + ACCUMULATED * size;
            (f64::from(y[i * n + row]) - sum).abs() / bound
        })
    });
    Ok(Accuracy::of(errors.collect::<Vec<_>>().into_iter()))
}

/// Checks the dequantized W, bit for bit.
///
/// # Errors
/// The errors of the wrapper and the device.
pub fn check_dequantize(device: &dyn Device, case: &ProductCase, seed: u64) -> Result<Accuracy> {
    let operands = Operands::new(case, seed)?;
    let [_, n, k] = case.size;
    let half = case.weights.half;
    let weight = Weight::upload(device, &operands.packed)?;
    let mut w = Matrix::allocate(device, half, [n, k], false)?;
    w.poison(device)?;
    dequantize(device, &weight, &mut w)?;
    let found = w.download(device)?;
    let errors = sampled(n, MOST_TERMS / k).into_par_iter().flat_map_iter(|row| {
        let found = &found[row * k..(row + 1) * k];
        let expected = weights(&operands.q, row, Some(half)).into_iter();
        expected
            .zip(found)
            .map(|(e, f)| if e == f64::from(*f) { 0.0 } else { f64::INFINITY })
            .collect::<Vec<_>>()
    });
    Ok(Accuracy::of(errors.collect::<Vec<_>>().into_iter()))
}

/// Checks rounding of x and the product with INT8 weights: the codes against x, the outputs against the codes.
///
/// # Errors
/// The errors of the wrappers and the device.
pub fn check_rounded_product(
    device: &dyn Device,
    case: &ProductCase,
    [tile_rows, splits]: [usize; 2],
    seed: u64,
) -> Result<Accuracy> {
    let operands = Operands::new(case, seed)?;
    let [m, n, k] = case.size;
    let half = case.weights.half;
    let mut uploaded = operands.upload(device, m)?;
    let mut rounded = QuantizedActivations::allocate(device, half, [m, k])?;
    quantize_activations(device, &uploaded.x, &mut rounded)?;
    let bias = uploaded.bias.as_ref();
    let product = Int8Product { weight: &uploaded.weight, x: &rounded, bias, y: &mut uploaded.y };
    w8a8(device, &product, tile_rows, splits, &mut Workspace::new())?;
    let y = uploaded.y.download(device)?;
    let (scales, codes) = rounded.download(device)?;
    let products = sampled(n, MOST_TERMS / (m * k)).into_par_iter().flat_map_iter(|row| {
        let stored = operands.q.as_scalar();
        let scale = f64::from(stored.grid.scales[row]);
        let w: Vec<i64> =
            stored.codes[row * k..(row + 1) * k].iter().map(|code| i64::from(*code) - 128).collect();
        let start = operands.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let (codes, scales, y) = (&codes, &scales, &y);
        (0..m).map(move |i| {
            let sum: i64 = codes[i * k..(i + 1) * k].iter().zip(&w).map(|(x, w)| i64::from(*x) * w).sum();
            let product = sum as f64 * f64::from(scales[i]) * scale;
            let bound = bound(half, product + start) + ACCUMULATED * (product.abs() + start.abs());
            (f64::from(y[i * n + row]) - product - start).abs() / bound
        })
    });
    let rounding =
        (0..m).flat_map(|i| rounding(&operands.x[i * k..(i + 1) * k], scales[i], &codes[i * k..(i + 1) * k]));
    let products: Vec<f64> = products.collect();
    Ok(Accuracy::of(products.into_iter().chain(rounding)))
}

/// Returns the errors of a row of rounded x: each code against its value, and the scale against absmax/127.
fn rounding<'a>(x: &'a [f32], scale: f32, codes: &'a [i8]) -> impl Iterator<Item = f64> + 'a {
    let absmax = f64::from(x.iter().fold(0.0f32, |most, value| most.max(value.abs())));
    let expected = absmax / 127.0;
    let of_scale = if absmax == 0.0 { 0.0 } else { (f64::from(scale) - expected).abs() / (1e-6 * expected) };
    let of_code = move |(x, code): (&f32, &i8)| {
        let bound = expected * 0.5001 + f64::MIN_POSITIVE;
        (f64::from(*x) - f64::from(*code) * expected).abs() / bound
    };
    x.iter().zip(codes).map(of_code).chain([of_scale])
}

/// Returns the error bound of one rounding: half a unit in the last place, or of the smallest number.
fn bound(half: Half, value: f64) -> f64 {
    let (epsilon, smallest) = match half {
        Half::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        Half::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
    };
    1.01 * epsilon * value.abs() + smallest
}

/// Returns a row of W, rounded to a type if given.
fn weights(q: &QTensor, row: usize, rounded: Option<Half>) -> Vec<f64> {
    let ScalarCodes { scheme, codes, grid, .. } = q.as_scalar();
    let middle = scheme.code_bits().exp2() / 2.0;
    let value = |k: usize| {
        let entry = scheme.grid_index(row, k, q.cols);
        let zero = grid.zero_points.get(entry).map_or(middle, |zero| f64::from(*zero));
        let value = (f64::from(codes[row * q.cols + k]) - zero) * f64::from(grid.scales[entry]);
        // An integer of 9 bits times a number of 11 bits is exact in f32.
        rounded.map_or(value, |half| f64::from(half.decode(half.encode(value as f32))))
    };
    (0..q.cols).map(value).collect()
}

/// Returns at most `most` indices of 0..n (at least two), evenly spread, including the first and the last.
fn sampled(n: usize, most: usize) -> Vec<usize> {
    let most = most.max(2).min(n);
    (0..most).map(|i| if most == 1 { 0 } else { i * (n - 1) / (most - 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_both_ends() {
        assert_eq!(sampled(5, 100), [0, 1, 2, 3, 4]);
        assert_eq!(sampled(100, 3), [0, 49, 99]);
        assert_eq!(sampled(7, 0), [0, 6]);
        assert_eq!(sampled(1, 9), [0]);
    }

    #[test]
    fn an_output_that_is_not_a_number_is_wrong() {
        let accuracy = Accuracy::of([0.5, f64::NAN].into_iter());
        assert_eq!((accuracy.outputs, accuracy.worst), (2, f64::INFINITY));
        assert!(!accuracy.holds());
        assert!(Accuracy::of([0.5].into_iter()).holds());
    }
}
