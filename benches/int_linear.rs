//! Linear layers over packed integers in the shapes of SmolLM2-135M, compared with the limits of the machine: `cargo
//! bench --bench int_linear [NAME]`, with RAYON_NUM_THREADS threads.
//!
//! One row of inputs counts in GB/s of packed weights read, many rows in GMAC/s. Values are medians; inputs are rounded
//! each time.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmc::Result;
use llmc::backend::cpu::{Activations, Cpu};
use llmc::backend::{Backend, Matrix};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{QTensor, Weight};
use llmc::tensor::{BlockType, DType};
use ndarray::Array2;
use rayon::prelude::*;

/// Shapes [outputs, inputs] of q, k and v; of o; of gate and up; of down; of the head.
const SHAPES: [[usize; 2]; 5] = [[960, 576], [576, 576], [3072, 576], [576, 1536], [49152, 576]];
/// A larger layer, for the types whose blocks do not fit the other shapes.
const LARGE: [usize; 2] = [4096, 4096];
const ROWS: [usize; 4] = [1, 8, 128, 512];
const BLOCKS: [BlockType; 5] =
    [BlockType::Q4_0, BlockType::Q8_0, BlockType::Q4_K, BlockType::Q6_K, BlockType::Q5_0];

/// A matrix in memory.
struct InMemoryMatrix(Weight);

impl Matrix for InMemoryMatrix {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        match &self.0 {
            Weight::Dense(values) => [values.nrows(), values.ncols()],
            Weight::Quantized(q) => [q.rows, q.cols],
        }
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(match &self.0 {
            Weight::Dense(values) => Weight::Dense(values.slice(ndarray::s![rows, ..]).to_owned()),
            Weight::Quantized(q) => Weight::Quantized(q.rows(rows)),
        })
    }
    fn release(&self) {}
}

/// Returns blocks of random bytes whose f16s are finite.
fn blocks(block: BlockType, [rows, cols]: [usize; 2]) -> Arc<dyn Matrix> {
    let mut random = SplitMix64(1);
    let count = rows * cols / block.block_elements() * block.block_bytes();
    let bytes = (0..count).map(|_| random.next() as u8 & 0xbf).collect();
    Arc::new(InMemoryMatrix(Weight::Quantized(QTensor::blocks(block, [rows, cols], bytes))))
}

fn median(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || start.elapsed() < Duration::from_millis(150) {
        let once = Instant::now();
        run();
        times.push(once.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Times layers with this type of weights; there are enough copies that weights are read from memory.
fn time(block: BlockType, shape: [usize; 2]) {
    let [outputs, cols] = shape;
    let bytes = outputs * cols / block.block_elements() * block.block_bytes();
    let cpu = Cpu::new(Activations::Auto);
    let matrix = blocks(block, shape);
    let copies = ((48 << 20) / bytes).clamp(1, 128);
    let parts = [matrix];
    let layers: Vec<_> =
        (0..copies).map(|_| cpu.load_linear(&parts, None).expect("a matrix in memory")).collect();
    let values = Array2::from_shape_fn((512, cols), |(i, k)| ((i * 7919 + k * 104_729) % 997) as f32 - 498.0);
    let table = cpu.load_table(Arc::new(InMemoryMatrix(Weight::Dense(values)))).expect("a matrix in memory");
    print!("{:6} {outputs:5}×{cols:4}", block.name());
    for rows in ROWS {
        if rows * outputs > 8 << 20 {
            continue;
        }
        let ids: Vec<u32> = (0..rows as u32).collect();
        let x = cpu.embed(&table, &ids).expect("rows of the table");
        let mut next = layers.iter().cycle();
        let seconds = median(|| {
            let layer = next.next().expect("a cycle does not end");
            black_box(cpu.linear(&x, layer).expect("shapes fit"));
        });
        match rows {
            1 => print!("  {:6.1} GB/s", bytes as f64 / seconds / 1e9),
            _ => print!("  {rows:3}: {:5.0} GMAC/s", (rows * outputs * cols) as f64 / seconds / 1e9),
        }
    }
    println!();
}

/// Returns the bytes per second of reading 256 MB once with all threads.
fn read_bandwidth() -> f64 {
    let numbers = vec![1u64; 32 << 20];
    let part = numbers.len() / rayon::current_num_threads();
    let sum = || numbers.par_chunks(part).map(|part| part.iter().sum::<u64>()).sum::<u64>();
    let seconds = median(|| {
        black_box(sum());
    });
    size_of_val(numbers.as_slice()) as f64 / seconds
}

/// Returns the products per second of one thread that does nothing else; `None` without AVX-512 VNNI.
#[cfg(target_arch = "x86_64")]
fn peak() -> Option<f64> {
    use std::arch::x86_64::*;
    const TURNS: usize = 100_000;

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply(turns: usize) -> i32 {
        let (codes, inputs) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(2)));
        let mut sums = [_mm512_setzero_si512(); 16];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, codes, inputs);
            }
        }
        sums.iter().fold(0, |all, sum| all ^ _mm512_reduce_add_epi32(*sum))
    }
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")) {
        return None;
    }
    let seconds = median(|| {
        // SAFETY: the processor has AVX-512 with VNNI.
        black_box(unsafe { multiply(black_box(TURNS)) });
    });
    Some((16 * 64 * TURNS) as f64 / seconds)
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> Option<f64> {
    None
}

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    println!("{} threads read {:.1} GB/s", rayon::current_num_threads(), read_bandwidth() / 1e9);
    if let Some(peak) = peak() {
        println!("vpdpbusd: {:.0} GMAC/s a thread", peak / 1e9);
    }
    for block in BLOCKS {
        if wanted.as_ref().is_some_and(|wanted| wanted != block.name()) {
            continue;
        }
        SHAPES
            .into_iter()
            .chain([LARGE])
            .filter(|[_, cols]| cols % block.block_elements() == 0)
            .for_each(|shape| time(block, shape));
    }
}
