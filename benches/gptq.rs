//! The costs of a calibrated run besides forward passes, in the shapes of SmolLM2-135M's linears and one of a larger
//! model: `cargo bench --bench gptq`, with RAYON_NUM_THREADS threads.
//!
//! Throughput counts the multiply-adds of a dense product: tokens·cols² for the sums of xᵀx, cols³/3 + rows·cols² for
//! the rounding. Both use symmetry, so the rate may exceed that of a product.

#[path = "../tests/common/numbers.rs"]
mod numbers;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, ScaleType, Scheme, Weight};
use llmc::registry::METHODS;
use llmc::stage::{Block, BlockLinear, Stage};
use llmc::statistics::{Needs, Statistics};
use ndarray::Array2;

/// Shapes [rows, cols] of q; of gate and up; of down; and of o in a model 4096 wide.
const SHAPES: [[usize; 2]; 4] = [[576, 576], [1536, 576], [576, 1536], [4096, 4096]];
/// Tokens of a batch.
const TOKENS: usize = 2048;
/// The statistics that `gptq` needs.
const HESSIAN: Needs = Needs { absmax: false, mean_abs: false, second_moment: false, hessian: true };

/// Returns values in ±1 from a small generator; neighbours of a row are similar, as in inputs of linears.
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
    let Stage::Quantize(method) = (method.build)(&toml::Table::new()).expect("its defaults are valid") else {
        panic!("gptq quantizes")
    };
    let scheme = Scheme::int(4, Granularity::Group(64), true, ScaleType::BF16);
    let mut group = criterion.benchmark_group("gptq");
    group.sample_size(10);
    for [rows, cols] in SHAPES {
        let linear = BlockLinear {
            input: Some(0),
            ..BlockLinear::new("linear.weight", scheme, Weight::Dense(values(rows, cols)))
        };
        let block = Block { linears: vec![linear], inputs: vec![observed(cols)], ..Block::default() };
        group.throughput(Throughput::Elements((cols * cols * cols / 3 + rows * cols * cols) as u64));
        group.bench_function(format!("{rows} x {cols}"), |b| {
            b.iter(|| method.quantize(&block).expect("nothing is singular"))
        });
    }
    group.finish();
}

criterion_group!(benches, sums, rounding);
criterion_main!(benches);
