//! Golden blocks made by ggml (fixtures/ggml/generate_blocks.py), fast paths against portable ones, properties.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ndarray::ArrayView2;
use proptest::prelude::*;

use super::codec::Functions;
use super::lanes::PlainLanes;
use super::rows::functions;
use super::*;
use crate::tensor::BlockType;

const COLS: usize = 256;

/// The types of this folder (k_quants has its own tests).
const TYPES: [BlockType; 7] = {
    use BlockType::*;
    [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, IQ4_XS]
};

/// Returns the functions of the same types over plain lanes, compiled without AVX2.
fn portable(block: BlockType) -> Functions {
    match block {
        BlockType::Q4_0 => Functions::over::<symmetric::Q4_0, PlainLanes>(),
        BlockType::Q4_1 => Functions::over::<affine::Q4_1, PlainLanes>(),
        BlockType::Q5_0 => Functions::over::<symmetric::Q5_0, PlainLanes>(),
        BlockType::Q5_1 => Functions::over::<affine::Q5_1, PlainLanes>(),
        BlockType::Q8_0 => Functions::over::<q8_0::Q8_0, PlainLanes>(),
        BlockType::IQ4_NL => Functions::over::<iq4_nl::Iq4Nl, PlainLanes>(),
        BlockType::IQ4_XS => Functions::over::<iq4_xs::Iq4Xs, PlainLanes>(),
        _ => unreachable!("not one of TYPES"),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/ggml").join(name)).unwrap()
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn golden_rows() -> ndarray::Array2<f32> {
    let values = floats("weights.f32");
    ndarray::Array2::from_shape_vec((values.len() / COLS, COLS), values).unwrap()
}

fn dequantized(block: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / block.block_bytes() * block.block_elements()];
    dequantize(block, bytes, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn equals_ggml_without_importance() {
    use BlockType::*;
    for block in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] {
        let ours = quantize(block, golden_rows().view(), None);
        let theirs = fixture(&format!("{}.blocks", block.name()));
        assert_eq!(ours.len(), theirs.len(), "{}", block.name());
        let pairs = ours.chunks(block.block_bytes()).zip(theirs.chunks(block.block_bytes()));
        for (i, (ours, theirs)) in pairs.enumerate() {
            assert_eq!(ours, theirs, "{} block {i}", block.name());
        }
    }
}

#[test]
fn dequantizes_as_ggml_does() {
    for block in TYPES {
        let ours = dequantized(block, &fixture(&format!("{}.random", block.name())));
        let theirs = floats(&format!("{}.random.f32", block.name()));
        assert_eq!(bits(&ours), bits(&theirs), "{}", block.name());
    }
}

/// Returns Σ weight·(x − x̂)² over the golden rows, relative to the size of each row; weights as in the searches.
fn weighted_error(block: BlockType, bytes: &[u8], importance: Option<&[f32]>) -> f64 {
    let decoded = dequantized(block, bytes);
    assert_eq!(decoded.len(), golden_rows().len(), "{}", block.name());
    let mut total = 0.0;
    for (row, decoded) in golden_rows().rows().into_iter().zip(decoded.chunks(COLS)) {
        let square: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
        let error = |j: usize| {
            let x = f64::from(row[j]);
            let weight =
                importance.map_or(x * x, |h| f64::from(h[j]) * (square / COLS as f64 + x * x).sqrt());
            weight * (x - f64::from(decoded[j])).powi(2)
        };
        let scale = importance.map_or(square.powi(2), |_| square.powf(1.5)).max(1e-60);
        total += (0..COLS).map(error).sum::<f64>() / scale;
    }
    total
}

#[test]
fn errs_no_more_than_ggml_with_importance() {
    let importance = floats("importance.f32");
    for block in TYPES {
        let ours = quantize(block, golden_rows().view(), Some(&importance));
        let ours = weighted_error(block, &ours, Some(&importance));
        let theirs =
            weighted_error(block, &fixture(&format!("{}.weighted", block.name())), Some(&importance));
        assert!(ours <= theirs, "{}: {ours:e} > {theirs:e}", block.name());
    }
}

#[test]
fn uneven_levels_err_no_more_than_ggml() {
    for block in [BlockType::IQ4_NL, BlockType::IQ4_XS] {
        let ours = weighted_error(block, &quantize(block, golden_rows().view(), None), None);
        let theirs = weighted_error(block, &fixture(&format!("{}.blocks", block.name())), None);
        assert!(ours <= theirs, "{}: {ours:e} > {theirs:e}", block.name());
    }
}

/// Returns awkward rows: lengths of 0 to several blocks, zeros, huge values, denormals, ties.
fn awkward_rows() -> Vec<Vec<f32>> {
    let wave = |n: usize, scale: f32| (0..n).map(|i| (i as f32 * 0.7).sin() * scale).collect();
    vec![
        vec![],
        vec![0.0; 256],
        vec![-0.0; 256],
        vec![f32::MAX; 256],
        (0..256).map(|i| if i % 3 == 0 { f32::MAX } else { -f32::MAX }).collect(),
        vec![f32::from_bits(1); 512],
        wave(256, 1.0),
        wave(768, 1e-38),
        wave(256, 1e-41),
        wave(512, 3e38),
        wave(256, 70000.0),
        (0..256).map(|i| if i == 77 { 1000.0 } else { 1e-3 }).collect(),
        (0..256).map(|i| (i % 5) as f32 - 2.0).collect(),
    ]
}

#[test]
fn fast_paths_equal_portable_ones() {
    for (block, row) in
        TYPES.into_iter().flat_map(|block| awkward_rows().into_iter().map(move |row| (block, row)))
    {
        let importance: Vec<f32> = (0..row.len()).map(|i| (i % 7) as f32).collect();
        for importance in [None, Some(importance.as_slice())] {
            let run = |functions: Functions| {
                let mut bytes = vec![0; row.len() / block.block_elements() * block.block_bytes()];
                (functions.quantize_row)(&row, importance, &mut bytes);
                let mut values = vec![0.0; row.len()];
                (functions.dequantize_row)(&bytes, &mut values);
                (bytes, bits(&values))
            };
            assert_eq!(run(functions(block)), run(portable(block)), "{}", block.name());
        }
    }
}

#[test]
fn finite_in_finite_out() {
    for (block, row) in
        TYPES.into_iter().flat_map(|block| awkward_rows().into_iter().map(move |row| (block, row)))
    {
        let huge = vec![f32::MAX; row.len()];
        for importance in [None, Some(huge.as_slice())] {
            let w = ArrayView2::from_shape((1, row.len()), &row).unwrap();
            let values = dequantized(block, &quantize(block, w, importance));
            assert!(values.iter().all(|v| v.is_finite()), "{} {:?}", block.name(), &row[..row.len().min(4)]);
        }
    }
}

/// Returns the largest |x − x̂| that a type allows if the largest magnitude of a block is `absmax` and its extent `range`: half
/// a step, and what f16 rounds off the scale and the minimum, and off scales below its smallest numbers.
fn bound(block: BlockType, absmax: f32, range: f32) -> f32 {
    const HALF_ULP: f32 = 1.0 / 2048.0;
    const SUBNORMAL: f32 = 1.0 / (1 << 24) as f32;
    let (step, codes) = match block {
        // One end has a code less: a whole step.
        BlockType::Q4_0 => (2.0 * absmax / 8.0, 8.0),
        BlockType::Q5_0 => (2.0 * absmax / 16.0, 16.0),
        BlockType::Q4_1 => (range / 15.0, 15.0),
        BlockType::Q5_1 => (range / 31.0, 31.0),
        _ => (absmax / 127.0, 127.0),
    };
    0.5 * step * 1.001 + 2.0 * HALF_ULP * absmax.max(range) + 2.0 * codes * SUBNORMAL
}

fn any_weights() -> impl Strategy<Value = Vec<f32>> {
    let scale = prop_oneof![Just(1.0f32), Just(1e-3), Just(6e4), Just(1e-30)];
    (scale, prop::collection::vec(-1.0f32..1.0, 256))
        .prop_map(|(scale, x)| x.iter().map(|v| v * scale).collect())
}

proptest! {
    #[test]
    fn any_bytes_dequantize(bytes in prop::collection::vec(any::<u8>(), 272)) {
        for block in TYPES {
            let whole = bytes.len() / block.block_bytes() * block.block_bytes();
            dequantized(block, &bytes[..whole]);
        }
    }

    #[test]
    fn any_finite_values_stay_finite(bits in prop::collection::vec(any::<u32>(), 512)) {
        let finite = |&bits: &u32| Some(f32::from_bits(bits)).filter(|v| v.is_finite()).unwrap_or(0.0);
        let x: Vec<f32> = bits.iter().map(finite).collect();
        let (x, importance) = x.split_at(256);
        let w = ArrayView2::from_shape((1, 256), x).unwrap();
        for (block, importance) in TYPES.into_iter().flat_map(|block| [(block, None), (block, Some(importance))]) {
            let values = dequantized(block, &quantize(block, w, importance));
            prop_assert!(values.iter().all(|v| v.is_finite()), "{}", block.name());
        }
    }

    #[test]
    fn errors_stay_within_half_a_step(x in any_weights()) {
        use BlockType::*;
        for block in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] {
            let w = ArrayView2::from_shape((1, x.len()), &x).unwrap();
            let values = dequantized(block, &quantize(block, w, None));
            for (x, values) in x.chunks(32).zip(values.chunks(32)) {
                let [low, high] = block::extent(x.try_into().unwrap());
                let absmax = high.max(-low);
                let bound = bound(block, absmax, high - low);
                for (x, v) in x.iter().zip(values) {
                    prop_assert!((x - v).abs() <= bound, "{}: {x} became {v}, {bound}", block.name());
                }
            }
        }
    }
}

#[test]
fn rows_need_not_be_contiguous() {
    let w = golden_rows();
    let transposed = w.t().as_standard_layout().into_owned();
    for block in TYPES {
        assert_eq!(
            quantize(block, transposed.t(), None),
            quantize(block, w.view(), None),
            "{}",
            block.name()
        );
    }
}

#[test]
#[should_panic(expected = "whole number of blocks")]
fn ragged_rows_are_refused() {
    quantize(BlockType::Q4_0, ArrayView2::from_shape((1, 33), &[0.0; 33]).unwrap(), None);
}
