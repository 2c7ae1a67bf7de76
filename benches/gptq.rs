//! What a calibrated run spends its time on besides forward passes, in the shapes of SmolLM2-135M's linears and one of a larger
//! model: `cargo bench --bench gptq`, in as many threads as RAYON_NUM_THREADS says.
//!
//! Throughput counts multiplications with additions, as a dense product would need them: tokens·cols² for the sums of xᵀx,
//! cols³/3 + rows·cols² for the rounding; both use symmetry, so that they may exceed what a product reaches.

#[path = "../tests/common/numbers.rs"]
mod numbers;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llmc::method::{Block, Linear, METHODS};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, ScaleType, Scheme};
use llmc::statistics::{Needs, Statistics};
use llmc::tensor::Weight;
use ndarray::Array2;

/// [rows, cols] of q; of gate and up; of down; and of a 4096-wide model's o.
const SHAPES: [[usize; 2]; 4] = [[576, 576], [1536, 576], [576, 1536], [4096, 4096]];
/// Those of a batch of a pass.
const TOKENS: usize = 2048;
/// What `gptq` asks for.
const HESSIAN: Needs = Needs { absmax: false, mean_abs: false, second_moment: false, hessian: true };

/// Uniform in ±0.5, from a small generator; neighbours of a row are alike, as inputs of linears are.
fn values(rows: usize, cols: usize) -> Array2<f32> {
    let mut last = 0.0;
    numbers::uniform(rows, cols, 1).mapv_into(|x| {
        last = 0.5 * last + 0.5 * x;
        last
    })
}

fn observed(cols: usize) -> Statistics {
    let mut statistics = Statistics::new(cols, HESSIAN);
    statistics.observe(values(TOKENS, cols).view());
    statistics
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("second moments");
    for cols in [576, 1536, 4096] {
        let x = values(TOKENS, cols);
        let mut statistics = Statistics::new(cols, HESSIAN);
        group.throughput(Throughput::Elements((TOKENS * cols * cols) as u64));
        group.bench_function(BenchmarkId::from_parameter(cols), |b| b.iter(|| statistics.observe(x.view())));
    }
    group.finish();
}

fn rounding(criterion: &mut Criterion) {
    let method = METHODS.iter().find(|def| def.name == "gptq").expect("it is listed");
    let method = (method.build)(&toml::Table::new()).expect("its defaults are valid");
    let scheme = Scheme::int(4, Granularity::Group(64), true, ScaleType::BF16);
    let mut group = criterion.benchmark_group("gptq");
    group.sample_size(10);
    for [rows, cols] in SHAPES {
        let linear = Linear {
            input: Some(0),
            ..Linear::alone("linear.weight", scheme, Weight::Dense(values(rows, cols)))
        };
        let block = Block { linears: vec![linear], inputs: vec![observed(cols)], ..Block::default() };
        group.throughput(Throughput::Elements((cols * cols * cols / 3 + rows * cols * cols) as u64));
        group.bench_function(format!("{rows} x {cols}"), |b| {
            let apply = |mut block: Block| method.apply(&mut block).expect("nothing is singular");
            b.iter_batched(|| block.clone(), apply, BatchSize::LargeInput)
        });
    }
    group.finish();
}

criterion_group!(benches, sums, rounding);
criterion_main!(benches);
