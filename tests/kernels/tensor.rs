//! Random quantized tensors and activations, and what products of them are in float64.

use llmc::cuda::{Half, Packed};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, Scheme};
use llmc::tensor::{Grid, QTensor};

use crate::common::signed;

/// What a kernel's name says of its weight.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub bits: u8,
    pub half: Half,
    pub symmetric: bool,
}

pub const HALVES: [Half; 2] = [Half::F16, Half::BF16];

impl Variant {
    /// Every one that is built.
    pub fn all() -> impl Iterator<Item = Variant> {
        let of = |bits| {
            HALVES
                .into_iter()
                .flat_map(move |half| [true, false].map(|symmetric| Variant { bits, half, symmetric }))
        };
        [4, 8].into_iter().flat_map(of)
    }
}

/// Every granularity that a kernel treats in its own way: groups below, of and above a step, and a channel.
pub const GRANULARITIES: [Granularity; 4] =
    [Granularity::Group(32), Granularity::Group(64), Granularity::Group(128), Granularity::Channel];

/// The nearest value of the type.
pub fn round(half: Half, value: f64) -> f64 {
    f64::from(half.decode(half.encode(value as f32)))
}

/// The largest relative error of rounding.
pub fn epsilon(half: Half) -> f64 {
    match half {
        Half::F16 => 2f64.powi(-11),
        Half::BF16 => 2f64.powi(-8),
    }
}

/// `count` values of the type in −1…1.
pub fn values(half: Half, count: usize, random: &mut SplitMix64) -> Vec<f32> {
    (0..count).map(|_| half.decode(half.encode(signed(random)))).collect()
}

/// A random tensor: all codes, scales that the type holds, zero points anywhere.
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
    QTensor {
        scheme,
        rows: n,
        cols: k,
        codes,
        grid: Grid { scales, zero_points, global_scale: None },
        g_idx: None,
    }
}

pub fn pack(q: &QTensor, variant: Variant) -> Packed {
    Packed::pack(q, variant.half).unwrap()
}

/// (code − zero point)·scale of every element.
pub fn weights(q: &QTensor) -> Vec<f64> {
    let offset = (q.scheme.code_bits() - 1.0).exp2();
    let value = |i: usize| {
        let entry = q.scheme.grid_index(i / q.cols, i % q.cols, q.cols);
        let zero = q.grid.zero_points.get(entry).map_or(offset, |&zero| f64::from(zero));
        (f64::from(q.codes[i]) - zero) * f64::from(q.grid.scales[entry])
    };
    (0..q.codes.len()).map(value).collect()
}

/// Each output of x·wᵀ + bias, and the sum of the magnitudes that it adds up.
pub fn product(x: &[f64], w: &[f64], k: usize, bias: Option<&[f32]>) -> Vec<(f64, f64)> {
    let output = |row: &[f64], (n, w): (usize, &[f64])| {
        let start = bias.map_or(0.0, |bias| f64::from(bias[n]));
        let terms = row.iter().zip(w).map(|(x, w)| x * w);
        terms.fold((start, start.abs()), |(sum, size), term| (sum + term, size + term.abs()))
    };
    x.chunks(k).flat_map(|row| w.chunks(k).enumerate().map(move |w| output(row, w))).collect()
}

/// That every output is the expected one, rounded, but for what f32 sums may lose.
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
