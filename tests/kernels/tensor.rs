//! Random quantized tensors and activations, and their products in float64.

use llmc::cuda::{Half, PackedMatrix};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, Grid, QTensor, ScalarCodes, Scheme};

use crate::common::signed;

/// The part of a kernel's name that describes its weight.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub bits: u8,
    pub half: Half,
    pub symmetric: bool,
}

pub const HALVES: [Half; 2] = [Half::F16, Half::BF16];

impl Variant {
    /// Returns every variant that is built.
    pub fn all() -> impl Iterator<Item = Variant> {
        let of = |bits| {
            HALVES
                .into_iter()
                .flat_map(move |half| [true, false].map(|symmetric| Variant { bits, half, symmetric }))
        };
        [4, 8].into_iter().flat_map(of)
    }
}

/// Every granularity that kernels treat differently: groups smaller than a step, as large, and larger; and a channel.
pub const GRANULARITIES: [Granularity; 4] =
    [Granularity::Group(32), Granularity::Group(64), Granularity::Group(128), Granularity::Channel];

/// Returns the nearest value of the type.
pub fn round(half: Half, value: f64) -> f64 {
    f64::from(half.decode(half.encode(value as f32)))
}

/// Returns the largest relative error of rounding.
pub fn epsilon(half: Half) -> f64 {
    match half {
        Half::F16 => 2f64.powi(-11),
        Half::BF16 => 2f64.powi(-8),
    }
}

/// Returns `count` values of the type in −1…1.
pub fn values(half: Half, count: usize, random: &mut SplitMix64) -> Vec<f32> {
    (0..count).map(|_| half.decode(half.encode(signed(random)))).collect()
}

/// Returns a random tensor: all codes, scales that the type represents exactly, any zero points.
pub fn tensor(
    variant: Variant,
    granularity: Granularity,
    [n, k]: [usize; 2],
    random: &mut SplitMix64,
) -> QTensor {
    let Variant { bits, half, symmetric } = variant;
    let scheme = Scheme::int(bits, granularity, symmetric, half.scale_type());
    let entries = scheme.grid_shape(n, k).iter().product();
    let levels = 1 << bits;
    let scale = |value: f32| half.decode(half.encode(value.abs().max(0.1) / levels as f32));
    let scales = values(half, entries, random).into_iter().map(scale).collect();
    let zero_points =
        if symmetric { vec![] } else { (0..entries).map(|_| random.below(levels) as u8).collect() };
    let codes = (0..n * k).map(|_| random.below(levels) as u8).collect();
    QTensor::scalar(scheme, [n, k], codes, Grid { scales, zero_points, global_scale: None })
}

pub fn pack(q: &QTensor, variant: Variant) -> PackedMatrix {
    PackedMatrix::pack(q, variant.half).unwrap()
}

/// Returns (code − zero point)·scale of every element.
pub fn weights(q: &QTensor) -> Vec<f64> {
    let ScalarCodes { scheme, codes, grid, .. } = q.as_scalar();
    let offset = (scheme.code_bits() - 1.0).exp2();
    let value = |i: usize| {
        let entry = scheme.grid_index(i / q.cols, i % q.cols, q.cols);
        let zero = grid.zero_points.get(entry).map_or(offset, |&zero| f64::from(zero));
        (f64::from(codes[i]) - zero) * f64::from(grid.scales[entry])
    };
    (0..codes.len()).map(value).collect()
}

/// Returns each output of x·wᵀ + bias, and the sum of the magnitudes of its terms.
pub fn product(x: &[f64], w: &[f64], k: usize, bias: Option<&[f32]>) -> Vec<(f64, f64)> {
    let output = |row: &[f64], (n, w): (usize, &[f64])| {
        let start = bias.map_or(0.0, |bias| f64::from(bias[n]));
        let terms = row.iter().zip(w).map(|(x, w)| x * w);
        terms.fold((start, start.abs()), |(sum, size), term| (sum + term, size + term.abs()))
    };
    x.chunks(k).flat_map(|row| w.chunks(k).enumerate().map(move |w| output(row, w))).collect()
}

/// Checks that every output is the expected one, rounded, up to the error of f32 sums.
#[track_caller]
pub fn close(found: &[f32], expected: &[(f64, f64)], half: Half, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &(sum, size))) in found.iter().zip(expected).enumerate() {
        let bound = epsilon(half) * sum.abs() * 1.01 + 2e-6 * size;
        assert!(
            (f64::from(found) - sum).abs() <= bound,
            "{what}: output {i} is {found}, expected {sum} ± {bound}"
        );
    }
}
