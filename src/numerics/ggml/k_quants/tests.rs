//! Every k-quant against ggml's own bytes and values (fixtures/ggml_k), its lanes against each other, and at the edges.
#![allow(clippy::unwrap_used)]

use half::f16;
use proptest::prelude::*;

use super::super_block::{SUPER_BLOCK, SuperBlock};
use super::*;
use crate::numerics::ggml::codec::{BlockCodec, Functions};
use crate::numerics::ggml::lanes::PlainLanes;
use crate::test_support::largest;

/// Runs one generic check for every type.
macro_rules! for_each_type {
    ($check:ident($($argument:expr),*)) => {
        $check::<Q2K>("q2_k", $($argument),*);
        $check::<Q3K>("q3_k", $($argument),*);
        $check::<Q4K>("q4_k", $($argument),*);
        $check::<Q5K>("q5_k", $($argument),*);
        $check::<Q6K>("q6_k", $($argument),*);
    };
}

fn fixture(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/ggml_k").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn quantized<B: SuperBlock>(x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; x.len() / SUPER_BLOCK * B::BYTES];
    (Functions::fastest::<B>().quantize_row)(x, importance, &mut out);
    out
}

fn dequantized<B: SuperBlock>(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / B::BYTES * SUPER_BLOCK];
    (Functions::fastest::<B>().dequantize_row)(bytes, &mut out);
    out
}

/// Returns √(Σw(x − y)² / Σw).
fn error(x: &[f32], y: &[f32], weight: impl Fn(usize) -> f32) -> f64 {
    let terms = x.iter().zip(y).enumerate().map(|(i, (x, y))| {
        let w = f64::from(weight(i));
        (w, w * f64::from(x - y).powi(2))
    });
    let (w, squares) = terms.fold((0.0, 0.0), |sum, term| (sum.0 + term.0, sum.1 + term.1));
    (squares / w).sqrt()
}

#[test]
fn dequantizes_as_ggml_to_the_bit() {
    fn check<B: SuperBlock>(name: &str) {
        let values = dequantized::<B>(&fixture(&format!("{name}.importance.blocks")));
        let expected = floats(&format!("{name}.importance.f32"));
        assert_eq!(values.len(), expected.len());
        for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
            let equal = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
            assert!(equal, "{name}, value {i}: {value} for {expected}");
        }
    }
    for_each_type!(check());
}

/// Compares the plain error without importance q, and the error under llama.cpp's weights q·√(2·mean x² + x²) with it.
/// Over the super-blocks of weights: of the edge cases behind them, ggml turns the denormals into NaN.
#[test]
fn errs_no_more_than_ggml() {
    fn check<B: SuperBlock>(name: &str, x: &[f32], importance: &[f32]) {
        let (x, importance) = (&x[..12 * SUPER_BLOCK], &importance[..12 * SUPER_BLOCK]);
        let square: Vec<f32> =
            x.chunks(SUPER_BLOCK).map(|x| x.iter().map(|v| v * v).sum::<f32>() / 256.0).collect();
        for (file, given) in [(".blocks", None), (".importance.blocks", Some(importance))] {
            let theirs = dequantized::<B>(&fixture(&format!("{name}{file}"))[..12 * B::BYTES]);
            let ours = dequantized::<B>(&quantized::<B>(x, given));
            let weight =
                |i: usize| given.map_or(1.0, |q| q[i] * (2.0 * square[i / SUPER_BLOCK] + x[i] * x[i]).sqrt());
            let (theirs, ours) = (error(x, &theirs, weight), error(x, &ours, weight));
            assert!(ours <= theirs, "{name}{file}: {ours} above {theirs}");
        }
    }
    let (x, importance) = (floats("row.f32"), floats("importance.f32"));
    for_each_type!(check(&x, &importance));
}

/// Returns awkward rows for a search.
fn awkward_rows() -> Vec<Vec<f32>> {
    let mut rows = vec![
        vec![],
        vec![0.0; 256],
        vec![-0.0; 256],
        vec![f32::MAX; 256],
        vec![f32::MIN; 256],
        vec![f32::MIN_POSITIVE; 256],
        vec![f32::from_bits(1); 256],
        vec![-3.25; 512],
        vec![3.0e-8; 256],
        (0..256).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect(),
        (0..256).map(|i| if i == 77 { 1.0e30 } else { 1.0e-30 }).collect(),
        (0..256).map(|i| if i == 255 { -7.0 } else { 0.0 }).collect(),
        (0..256).map(|i| (i as f32 - 128.0) * 1.0e-7).collect(),
        (0..256).map(|i| (i as f32).exp2().min(f32::MAX)).collect(),
        (0..512).map(|i| f32::from((i / 16) as u8)).collect(),
    ];
    rows.push(floats("row.f32"));
    rows
}

fn awkward_importances(len: usize) -> Vec<Option<Vec<f32>>> {
    let sparse = |i: usize| if i % 32 < 16 { 0.0 } else { i as f32 };
    vec![
        None,
        Some(vec![0.0; len]),
        Some(vec![f32::MAX; len]),
        Some(vec![f32::from_bits(1); len]),
        Some((0..len).map(sparse).collect()),
    ]
}

#[test]
fn finite_input_gives_finite_values() {
    fn check<B: SuperBlock>(name: &str) {
        for x in awkward_rows() {
            for importance in awkward_importances(x.len()) {
                let values = dequantized::<B>(&quantized::<B>(&x, importance.as_deref()));
                let bad = values.iter().position(|v| !v.is_finite());
                assert_eq!(bad, None, "{name} of {:?}", &x[..2]);
            }
        }
    }
    for_each_type!(check());
}

#[test]
fn fast_lanes_equal_plain_lanes() {
    fn check<B: SuperBlock>(name: &str) {
        for x in awkward_rows() {
            for importance in awkward_importances(x.len()) {
                let fast = quantized::<B>(&x, importance.as_deref());
                let mut plain = vec![0; fast.len()];
                B::quantize_row::<PlainLanes>(&x, importance.as_deref(), &mut plain);
                assert_eq!(fast, plain, "{name}");
            }
        }
    }
    for_each_type!(check());
}

#[test]
fn fast_dequantization_equals_plain() {
    fn check<B: SuperBlock>(name: &str) {
        let bytes = fixture(&format!("{name}.importance.blocks"));
        let fast = dequantized::<B>(&bytes);
        let mut plain = vec![0.0; fast.len()];
        B::dequantize_row(&bytes, &mut plain);
        assert!(fast.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
    for_each_type!(check());
}

#[test]
fn zeros_stay_zeros() {
    fn check<B: SuperBlock>(name: &str) {
        for tiny in [0.0, f32::from_bits(1), 1e-13] {
            let values = dequantized::<B>(&quantized::<B>(&[tiny; SUPER_BLOCK], None));
            assert!(values.iter().all(|&v| v == 0.0), "{name} of {tiny}");
        }
    }
    for_each_type!(check());
}

/// A constant takes one code: the only error is the rounding of the scales to f16 and to integers.
#[test]
fn constants_are_nearly_exact() {
    fn check<B: SuperBlock>(name: &str) {
        for c in [0.0371, -1.25, 3000.0, -2.0e-4] {
            let values = dequantized::<B>(&quantized::<B>(&[c; SUPER_BLOCK], None));
            let worst = largest(values.iter().map(|v| (v - c).abs()));
            assert!(worst <= f64::from(c.abs()) * 4.0e-3, "{name} of {c}: off by {worst}");
        }
    }
    for_each_type!(check());
}

/// Values so small that the scales are f16 subnormals lose precision, not their magnitude.
#[test]
fn subnormal_scales_keep_the_magnitude() {
    let step = f16::from_bits(1).to_f32();
    let x: Vec<f32> = (0..SUPER_BLOCK).map(|i| step * 700.0 * (i as f32 * 0.7).sin()).collect();
    fn check<B: SuperBlock>(name: &str, x: &[f32]) {
        let off = error(x, &dequantized::<B>(&quantized::<B>(x, None)), |_| 1.0);
        let size = error(x, &vec![0.0; x.len()], |_| 1.0);
        assert!(off < size * 0.4, "{name}: {off} of {size}");
    }
    for_each_type!(check(&x));
}

proptest! {
    #[test]
    fn any_bytes_dequantize(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        fn check<B: SuperBlock>(_name: &str, bytes: &[u8]) {
            dequantized::<B>(bytes);
        }
        for_each_type!(check(&bytes));
    }

    /// No error exceeds a few steps of the widest sub-block, which the format guarantees for every value.
    #[test]
    fn errors_are_bounded(x in proptest::collection::vec(-1.0f32..1.0, SUPER_BLOCK), size in -8i32..8) {
        let x: Vec<f32> = x.iter().map(|v| v * (size as f32).exp2()).collect();
        let absmax = x.iter().fold(0f32, |most, v| most.max(v.abs()));
        fn check<B: SuperBlock>(name: &str, x: &[f32], absmax: f32) {
            // Steps over the range −absmax … absmax.
            let steps = match name { "q2_k" => 3.0, "q3_k" => 7.0, "q4_k" => 15.0, "q5_k" => 31.0, _ => 63.0 };
            let values = dequantized::<B>(&quantized::<B>(x, None));
            let worst = largest(x.iter().zip(&values).map(|(x, v)| (x - v).abs()));
            assert!(worst <= f64::from(2.5 * absmax / steps), "{name}: off by {worst} of {absmax}");
        }
        for_each_type!(check(&x, absmax));
    }
}
