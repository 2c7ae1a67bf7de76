//! GGUF block types, both directions, one thread: `cargo bench --bench ggml`. The rows fit in the cache; throughput
//! counts weights.

#[path = "../tests/common/numbers.rs"]
mod numbers;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmc::numerics::ggml;
use llmc::numerics::random::SplitMix64;
use llmc::tensor::BlockType;

const ROWS: usize = 16;
const COLS: usize = 2048;

/// Benches every block type on normal numbers of the size of weights.
fn blocks(criterion: &mut Criterion) {
    let w = numbers::normal(ROWS, COLS, 1) * 0.012;
    let importance: Vec<f32> = (0..COLS).map(|i| 1.0 + (i % 7) as f32).collect();
    for block in BlockType::ALL {
        let mut group = criterion.benchmark_group(block.name());
        group.throughput(Throughput::Elements(w.len() as u64));
        group.bench_function("quantize", |b| b.iter(|| ggml::quantize(block, black_box(w.view()), None)));
        group.bench_function("quantize, weighted", |b| {
            b.iter(|| ggml::quantize(block, black_box(w.view()), Some(&importance)))
        });
        let bytes = ggml::quantize(block, w.view(), None);
        let mut values = vec![0.0; w.len()];
        group.bench_function("dequantize", |b| {
            b.iter(|| ggml::dequantize(block, black_box(&bytes), &mut values))
        });
        group.finish();
    }
}

criterion_group!(benches, blocks);
criterion_main!(benches);
