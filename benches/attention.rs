//! Attention of one layer on the threads of the machine, in the shapes of SmolLM2-135M (9 heads over 3) and Llama-3-8B
//! (32 over 8): prefill, and one token after a long context. `cargo bench --bench attention`.
//!
//! Throughput counts products of the two matrix products (prefill), or bytes of keys and values read (decoding).

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmc::backend::cpu::{Activations, Cpu, Tensor};
use llmc::backend::{Attention, Backend, Matrix, Span};
use llmc::error::Result;
use llmc::numerics::Weight;
use llmc::tensor::DType;
use ndarray::Array2;

/// A matrix of reproducible noise within ±1.
struct NoiseMatrix([usize; 2]);

impl Matrix for NoiseMatrix {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        self.0
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        let value = |(i, j)| ((rows.start + i) as f32 * 12.9898 + j as f32 * 78.233).sin();
        Ok(Weight::Dense(Array2::from_shape_fn((rows.len(), self.0[1]), value)))
    }

    fn release(&self) {}
}

fn noise(cpu: &Cpu, rows: usize, cols: usize) -> Tensor {
    let table = cpu.load_table(Arc::new(NoiseMatrix([rows, cols]))).expect("a table");
    let ids: Vec<u32> = (0..rows as u32).collect();
    cpu.embed(&table, &ids).expect("rows of the table")
}

const SHAPES: [(&str, [usize; 3]); 2] = [("smollm2", [9, 3, 64]), ("llama3", [32, 8, 128])];

fn spec([heads, kv_heads, head_dim]: [usize; 3]) -> Attention {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Attention { heads, kv_heads, head_dim, scale, soft_cap: None, window: None, slopes: None, causal: true }
}

fn prefill(criterion: &mut Criterion) {
    let cpu = Cpu::new(Activations::Auto);
    let mut group = criterion.benchmark_group("prefill");
    group.sample_size(20);
    for (name, shape) in SHAPES {
        let spec = spec(shape);
        let [queries, width] = [spec.heads, spec.kv_heads].map(|heads| heads * spec.head_dim);
        for len in [128, 512, 2048] {
            let [q, k, v] = [queries, width, width].map(|cols| noise(&cpu, len, cols));
            let spans = [Span { slot: 0, past: 0, len }];
            group.throughput(Throughput::Elements((queries * len * (len + 1)) as u64));
            group.bench_function(format!("{name}/{len}"), |b| {
                b.iter(|| black_box(cpu.attention(&q, &k, &v, &spec, &spans, None)));
            });
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let cpu = Cpu::new(Activations::Auto);
    let mut group = criterion.benchmark_group("decode");
    for (name, shape) in SHAPES {
        let spec = spec(shape);
        let [queries, width] = [spec.heads, spec.kv_heads].map(|heads| heads * spec.head_dim);
        for past in [512, 4096] {
            let mut cache = cpu.key_values(width, 1).expect("a cache");
            let [q, k, v] = [queries, width, width].map(|cols| noise(&cpu, past, cols));
            let before = [Span { slot: 0, past: 0, len: past }];
            cpu.attention(&q, &k, &v, &spec, &before, Some(&mut cache)).expect("a filled cache");
            let [q, k, v] = [queries, width, width].map(|cols| noise(&cpu, 1, cols));
            let spans = [Span { slot: 0, past, len: 1 }];
            group.throughput(Throughput::Bytes((8 * past * width) as u64));
            group.bench_function(format!("{name}/{past}"), |b| {
                b.iter(|| black_box(cpu.attention(&q, &k, &v, &spec, &spans, Some(&mut cache))));
            });
        }
    }
}

criterion_group!(benches, prefill, decode);
criterion_main!(benches);
