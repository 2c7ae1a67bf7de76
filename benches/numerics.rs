//! Codecs on one core: a chunk of a million weights, the unit of the pipeline. `cargo bench --bench numerics`.
//!
//! Throughput counts bytes of BF16 weights (two per weight), except in `pack`, which counts codes (one byte each).
//! `quantize` is the whole path of a chunk: BF16 bytes → f32 → grid → codes → packed bits.

#[path = "../tests/common/numbers.rs"]
mod numbers;

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Context, Extent, Fp8, Granularity, ScaleType, Scheme, convert, pack, presets};
use llmc::tensor::DType;
use ndarray::ArrayView2;

const ROWS: usize = 512;
const COLS: usize = 2048;
const WEIGHTS: usize = ROWS * COLS;

/// Returns normal numbers of the size of weights.
fn weights() -> Vec<f32> {
    (numbers::normal(ROWS, COLS, 1) * 0.015).into_raw_vec_and_offset().0
}

fn encoded(dtype: DType) -> Vec<u8> {
    let mut bytes = Vec::new();
    convert::from_f32(dtype, &weights(), &mut bytes);
    bytes
}

fn group<'c>(criterion: &'c mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(30);
    group
}

fn conversions(criterion: &mut Criterion) {
    let mut group = group(criterion, "convert", 2 * WEIGHTS);
    let values = weights();
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F8E4M3] {
        let bytes = encoded(dtype);
        let mut out = vec![0.0; WEIGHTS];
        group.bench_function(format!("{}→f32", dtype.name()), |b| {
            b.iter(|| convert::to_f32(dtype, black_box(&bytes), black_box(&mut out)));
        });
        let mut bytes = Vec::new();
        group.bench_function(format!("f32→{}", dtype.name()), |b| {
            b.iter(|| {
                bytes.clear();
                convert::from_f32(dtype, black_box(&values), &mut bytes);
            });
        });
    }
}

/// Returns the schemes to time: one preset per codec and granularity.
fn schemes() -> Vec<(&'static str, Scheme)> {
    let mut schemes: Vec<_> =
        ["w3a16", "w4a16", "w4a16-asym", "w8a16", "fp8", "fp8-tensor", "fp8-block", "nvfp4", "mxfp4", "nf4"]
            .iter()
            .filter_map(|name| presets::find(name))
            .map(|preset| (preset.name, preset.scheme))
            .collect();
    schemes.push(("int4 g32", Scheme::int(4, Granularity::Group(32), true, ScaleType::BF16)));
    schemes.push(("fp8-e5m2", Scheme::fp8(Fp8::E5M2, Granularity::Channel, ScaleType::BF16)));
    schemes
}

fn codecs(criterion: &mut Criterion) {
    let values = weights();
    let w = ArrayView2::from_shape((ROWS, COLS), &values).expect("as many values as the shape holds");
    let extent = Some(Extent::of(&values));
    for (name, scheme) in schemes() {
        let mut group = group(criterion, name, 2 * WEIGHTS);
        let context = Context { extent, importance: None };
        let grid = scheme.fit(w, &context);
        group.bench_function("fit", |b| b.iter(|| scheme.fit(black_box(w), &context)));
        group.bench_function("round", |b| b.iter(|| scheme.round(black_box(w), grid.clone(), &context)));
        let q = scheme.round(w, grid, &context);
        let mut out = vec![0.0; WEIGHTS];
        group.bench_function("dequantize", |b| b.iter(|| q.dequantize(black_box(&mut out))));
    }
}

fn quantize(criterion: &mut Criterion) {
    let bytes = encoded(DType::BF16);
    let mut values = vec![0.0; WEIGHTS];
    let context = Context { extent: Some(Extent::of(&weights())), importance: None };
    let mut group = group(criterion, "quantize", 2 * WEIGHTS);
    for (name, scheme) in schemes() {
        let bits = scheme.code_bits() as u8;
        let mut packed = vec![0; ROWS * pack::row_len(COLS, bits)];
        group.bench_function(name, |b| {
            b.iter(|| {
                convert::to_f32(DType::BF16, black_box(&bytes), &mut values);
                let w = ArrayView2::from_shape((ROWS, COLS), &values).expect("the shape of the chunk");
                let q = scheme.quantize(w, &context);
                pack::pack_rows(&q.as_scalar().codes, COLS, bits, black_box(&mut packed));
            });
        });
    }
}

fn packing(criterion: &mut Criterion) {
    let codes: Vec<u8> = (0..WEIGHTS).map(|i| (i * 7 % 256) as u8).collect();
    let mut group = group(criterion, "pack", WEIGHTS);
    for bits in [2, 3, 4, 6, 8] {
        let mut packed = vec![0; ROWS * pack::row_len(COLS, bits)];
        group.bench_function(format!("{bits} bits"), |b| {
            b.iter(|| pack::pack_rows(black_box(&codes), COLS, bits, black_box(&mut packed)));
        });
        let mut codes = vec![0; WEIGHTS];
        group.bench_function(format!("unpack {bits} bits"), |b| {
            b.iter(|| pack::unpack_rows(black_box(&packed), COLS, bits, black_box(&mut codes)));
        });
    }
}

criterion_group!(benches, conversions, codecs, quantize, packing);
criterion_main!(benches);
