//! GGUF block types, both directions, one thread: `cargo bench --bench ggml`. The rows fit in the cache; throughput
//! counts weights.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmc::numerics::ggml;
use llmc::tensor::BlockType;
use ndarray::Array2;

const SHAPE: (usize, usize) = (16, 2048);

/// Returns bell-shaped values like those of weights: sums of uniform numbers from a small generator.
fn weights() -> Array2<f32> {
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    Array2::from_shape_simple_fn(SHAPE, || 0.02 * (0..4).map(|_| uniform()).sum::<f32>())
}

fn blocks(criterion: &mut Criterion) {
    let w = weights();
    let importance: Vec<f32> = (0..SHAPE.1).map(|i| 1.0 + (i % 7) as f32).collect();
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
