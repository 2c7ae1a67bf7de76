//! Whether kernels are right: what they compute of random numbers, beside sums in float64.
//!
//! Of large products some outputs are summed, the first and the last among them. Outputs hold NaN beforehand, so that
//! one that is not written shows.

use rayon::prelude::*;
use serde::Serialize;

use super::made::{Case, Made};
use crate::cuda::{
    Choice, Device, Half, Kernel, Matrix, Product, Rounded, RoundedProduct, Weight, Workspace, dequantize,
    multiply, quantize_activations, w8a8,
};
use crate::error::Result;
use crate::numerics::{QTensor, ScalarCodes};

/// How near the outputs of a kernel are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Checked {
    /// Outputs that were looked at.
    pub outputs: usize,
    /// The largest error over what rounding explains: more than 1 is wrong. Infinite where an output is not a number.
    pub worst: f64,
}

impl Checked {
    /// Whether rounding explains it.
    pub fn holds(self) -> bool {
        self.worst <= 1.0
    }

    fn of(errors: impl Iterator<Item = f64>) -> Checked {
        let nothing = Checked { outputs: 0, worst: 0.0 };
        errors.fold(nothing, |all, error| {
            let error = if error.is_nan() { f64::INFINITY } else { error };
            Checked { outputs: all.outputs + 1, worst: all.worst.max(error) }
        })
    }
}

/// Multiplications in float64 that a check may take.
const MOST_TERMS: usize = 1 << 28;

/// What accumulating in f32 may lose, of the sum of magnitudes.
const ACCUMULATED: f64 = 2e-6;

/// y = x·Wᵀ + bias by a choice of kernel.
///
/// # Errors
/// What the wrappers and the device refuse.
pub fn check_product(
    device: &dyn Device,
    case: &Case,
    choice: Choice,
    seed: u64,
    workspace: &mut Workspace,
) -> Result<Checked> {
    let (made, m) = (Made::new(case, seed)?, case.size[0]);
    let mut there = made.upload(device, m)?;
    let bias = there.bias.as_ref();
    let mut product = Product { weight: &there.weight, x: &there.x, bias, y: &mut there.y };
    multiply(device, &mut product, choice, workspace)?;
    let y = there.y.download(device)?;
    // Tiles hold weights of half precision; the kernels for few rows never round code·scale.
    let half = case.weights.half;
    let rounded = matches!(choice.kernel, Kernel::Gemm(_) | Kernel::GemmSm90 | Kernel::Dequantize);
    let [_, n, k] = case.size;
    let errors = sampled(n, MOST_TERMS / (m * k)).into_par_iter().flat_map_iter(|row| {
        let w = weights(&made.q, row, rounded.then_some(half));
        let start = made.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let (x, y) = (&made.x, &y);
        (0..m).map(move |i| {
            let terms = x[i * k..(i + 1) * k].iter().zip(&w).map(|(x, w)| f64::from(*x) * w);
            let (sum, size) = terms.fold((start, start.abs()), |(s, a), t| (s + t, a + t.abs()));
            let bound = bound(half, sum) + ACCUMULATED * size;
            (f64::from(y[i * n + row]) - sum).abs() / bound
        })
    });
    Ok(Checked::of(errors.collect::<Vec<_>>().into_iter()))
}

/// W itself: to the bit.
///
/// # Errors
/// What the wrapper and the device refuse.
pub fn check_dequantize(device: &dyn Device, case: &Case, seed: u64) -> Result<Checked> {
    let (made, [_, n, k]) = (Made::new(case, seed)?, case.size);
    let half = case.weights.half;
    let weight = Weight::upload(device, &made.packed)?;
    let mut w = Matrix::allocate(device, half, [n, k], false)?;
    w.poison(device)?;
    dequantize(device, &weight, &mut w)?;
    let found = w.download(device)?;
    let errors = sampled(n, MOST_TERMS / k).into_par_iter().flat_map_iter(|row| {
        let found = &found[row * k..(row + 1) * k];
        let expected = weights(&made.q, row, Some(half)).into_iter();
        expected
            .zip(found)
            .map(|(e, f)| if e == f64::from(*f) { 0.0 } else { f64::INFINITY })
            .collect::<Vec<_>>()
    });
    Ok(Checked::of(errors.collect::<Vec<_>>().into_iter()))
}

/// Rounding x and multiplying with INT8 weights: the codes against x, the outputs against what the codes say.
///
/// # Errors
/// What the wrappers and the device refuse.
pub fn check_rounded_product(
    device: &dyn Device,
    case: &Case,
    [tile_rows, splits]: [usize; 2],
    seed: u64,
) -> Result<Checked> {
    let (made, [m, n, k]) = (Made::new(case, seed)?, case.size);
    let half = case.weights.half;
    let mut there = made.upload(device, m)?;
    let mut rounded = Rounded::allocate(device, half, [m, k])?;
    quantize_activations(device, &there.x, &mut rounded)?;
    let bias = there.bias.as_ref();
    let product = RoundedProduct { weight: &there.weight, x: &rounded, bias, y: &mut there.y };
    w8a8(device, &product, tile_rows, splits, &mut Workspace::new())?;
    let (y, (scales, codes)) = (there.y.download(device)?, rounded.download(device)?);
    let products = sampled(n, MOST_TERMS / (m * k)).into_par_iter().flat_map_iter(|row| {
        let stored = made.q.as_scalar();
        let scale = f64::from(stored.grid.scales[row]);
        let w: Vec<i64> =
            stored.codes[row * k..(row + 1) * k].iter().map(|code| i64::from(*code) - 128).collect();
        let start = made.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let (codes, scales, y) = (&codes, &scales, &y);
        (0..m).map(move |i| {
            let sum: i64 = codes[i * k..(i + 1) * k].iter().zip(&w).map(|(x, w)| i64::from(*x) * w).sum();
            let product = sum as f64 * f64::from(scales[i]) * scale;
            let bound = bound(half, product + start) + ACCUMULATED * (product.abs() + start.abs());
            (f64::from(y[i * n + row]) - product - start).abs() / bound
        })
    });
    let rounding =
        (0..m).flat_map(|i| rounding(&made.x[i * k..(i + 1) * k], scales[i], &codes[i * k..(i + 1) * k]));
    let products: Vec<f64> = products.collect();
    Ok(Checked::of(products.into_iter().chain(rounding)))
}

/// Of a row of x: each code against its value, and the scale against absmax/127.
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

/// Half a unit in the last place, and of the smallest numbers.
fn bound(half: Half, value: f64) -> f64 {
    let (epsilon, smallest) = match half {
        Half::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        Half::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
    };
    1.01 * epsilon * value.abs() + smallest
}

/// A row of W, rounded to a type or not.
fn weights(q: &QTensor, row: usize, rounded: Option<Half>) -> Vec<f64> {
    let ScalarCodes { scheme, codes, grid, .. } = q.as_scalar();
    let middle = scheme.code_bits().exp2() / 2.0;
    let value = |k: usize| {
        let entry = scheme.grid_index(row, k, q.cols);
        let zero = grid.zero_points.get(entry).map_or(middle, |zero| f64::from(*zero));
        let value = (f64::from(codes[row * q.cols + k]) - zero) * f64::from(grid.scales[entry]);
        // An integer of 9 bits times a number of 11 is exact in f32.
        rounded.map_or(value, |half| f64::from(half.decode(half.encode(value as f32))))
    };
    (0..q.cols).map(value).collect()
}

/// At most so many of 0..n (two at least), evenly spread, the first and the last among them.
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
        let checked = Checked::of([0.5, f64::NAN].into_iter());
        assert_eq!((checked.outputs, checked.worst), (2, f64::INFINITY));
        assert!(!checked.holds());
        assert!(Checked::of([0.5].into_iter()).holds());
    }
}
