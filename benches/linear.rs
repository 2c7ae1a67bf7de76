//! All linear layers of SmolLM2-135M with one token (`decode`) and with a prompt, for each form of the weights. `cargo
//! bench --bench linear`.
//!
//! Prints the machine's peaks first, for the same number of threads: multiplications of registers only, and the rate of
//! reading a large array. Decoding counts bytes of packed weights, prompts count multiplications, so that each can be
//! compared with its peak.

#[path = "linear/peaks.rs"]
mod peaks;

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmc::Result;
use llmc::backend::Matrix;
use llmc::backend::cpu::{Activations, PackedLinear, Scratch};
use llmc::numerics::{Context, Scheme, Weight};
use llmc::tensor::{BlockType, DType};
use ndarray::Array2;

const THREADS: usize = 2;
const LAYERS: usize = 30;
/// Shapes [rows, cols] of q+k+v, o, gate+up, down.
const LAYER: [[usize; 2]; 4] = [[960, 576], [576, 576], [3072, 576], [576, 1536]];
const HEAD: [usize; 2] = [49_152, 576];

/// The stored form of the weights.
#[derive(Clone, Copy)]
enum WeightForm {
    Dense(DType),
    Quantized(Scheme),
}

const FORMS: [(&str, WeightForm, Activations); 6] = [
    ("bf16", WeightForm::Dense(DType::BF16), Activations::Auto),
    ("bf16, f32 inputs", WeightForm::Dense(DType::BF16), Activations::F32),
    ("f32", WeightForm::Dense(DType::F32), Activations::Auto),
    ("q8_0", WeightForm::Quantized(Scheme::ggml(BlockType::Q8_0)), Activations::Auto),
    ("q4_0", WeightForm::Quantized(Scheme::ggml(BlockType::Q4_0)), Activations::Auto),
    ("q4_0, f32 inputs", WeightForm::Quantized(Scheme::ggml(BlockType::Q4_0)), Activations::F32),
];

struct GeneratedMatrix {
    shape: [usize; 2],
    stored: WeightForm,
}

impl Matrix for GeneratedMatrix {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn dtype(&self) -> DType {
        match self.stored {
            WeightForm::Dense(dtype) => dtype,
            WeightForm::Quantized(_) => DType::F32,
        }
    }
    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        // Multiples of 1/32 within ±1, which every form represents exactly or nearly.
        let value = |(row, col)| (((rows.start + row) * 31 + col * 7) % 65) as f32 / 32.0 - 1.0;
        let values = Array2::from_shape_fn((rows.len(), self.shape[1]), value);
        Ok(match self.stored {
            WeightForm::Dense(_) => Weight::Dense(values),
            WeightForm::Quantized(scheme) => {
                Weight::Quantized(scheme.quantize(values.view(), &Context::default()))
            }
        })
    }
    fn release(&self) {}
}

fn load(shape: [usize; 2], stored: WeightForm, activations: Activations) -> PackedLinear {
    let matrix: Arc<dyn Matrix> = Arc::new(GeneratedMatrix { shape, stored });
    PackedLinear::load(&[matrix], None, activations).expect("memory for a layer")
}

/// Runs every layer on `rows` rows; x and out are large enough for the widest layer.
fn forward(linears: &[PackedLinear], rows: usize, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    for linear in linears {
        let (x, out) = (&x[..rows * linear.cols()], &mut out[..rows * linear.rows()]);
        linear.forward(black_box(x), rows, scratch, out);
        black_box(out);
    }
}

fn linears(criterion: &mut Criterion) {
    peaks::print(THREADS);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("two threads");
    let x: Vec<f32> = (0..512 * 1536).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let (mut out, mut scratch) = (vec![0.0; 512 * 3072], Scratch::default());
    for (name, stored, activations) in FORMS {
        let mut layers: Vec<PackedLinear> =
            (0..LAYERS).flat_map(|_| LAYER).map(|shape| load(shape, stored, activations)).collect();
        let macs: usize = LAYER.iter().map(|[rows, cols]| LAYERS * rows * cols).sum();
        for rows in [128, 512] {
            let mut group = criterion.benchmark_group(format!("prompt of {rows}"));
            group.throughput(Throughput::Elements((rows * macs) as u64)).sample_size(10);
            group.bench_function(name, |b| {
                pool.install(|| b.iter(|| forward(&layers, rows, &x, &mut scratch, &mut out)));
            });
        }
        layers.push(load(HEAD, stored, activations));
        let bytes = layers.iter().map(PackedLinear::bytes).sum::<usize>();
        let mut group = criterion.benchmark_group("decode");
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(30);
        group.bench_function(name, |b| {
            pool.install(|| b.iter(|| forward(&layers, 1, &x, &mut scratch, &mut out)));
        });
    }
}

criterion_group!(benches, linears);
criterion_main!(benches);
