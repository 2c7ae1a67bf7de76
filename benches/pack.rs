//! Packing for the kernels of `src/cuda/` and back: `cargo bench --bench pack`, with RAYON_NUM_THREADS threads.
//!
//! Prints GB/s of packed codes (half a byte of W4, a byte of W8), the median of several runs over a matrix larger than
//! the caches. For comparison, also prints the rate of copying as many bytes as packing reads and writes.

use std::hint::black_box;
use std::time::Instant;

use llmc::cuda::{Half, PackedMatrix};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, Grid, QTensor, ScaleType, Scheme};
use rayon::prelude::*;

const RUNS: usize = 9;
const SHAPES: [[usize; 2]; 2] = [[14336, 4096], [4097, 14340]];

fn tensor(bits: u8, granularity: Granularity, [rows, cols]: [usize; 2]) -> QTensor {
    let mut random = SplitMix64(1);
    let scheme = Scheme::int(bits, granularity, false, ScaleType::F16);
    let [grid_rows, grid_cols] = scheme.grid_shape(rows, cols);
    let mask = (1u64 << bits) as u8;
    let codes = (0..rows * cols).map(|_| random.next() as u8 & mask.wrapping_sub(1)).collect();
    let zero_points = vec![7; grid_rows * grid_cols];
    let grid = Grid { scales: vec![0.5; grid_rows * grid_cols], zero_points, global_scale: None };
    QTensor::scalar(scheme, [rows, cols], codes, grid)
}

fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn copy(bytes: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes / 2], vec![0u8; bytes / 2]);
    median(|| {
        to.par_chunks_mut(1 << 20)
            .zip(from.par_chunks(1 << 20))
            .for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
    })
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    for shape in SHAPES {
        for (bits, granularity) in
            [(4, Granularity::Group(128)), (4, Granularity::Group(32)), (8, Granularity::Channel)]
        {
            let q = tensor(bits, granularity, shape);
            let packed = PackedMatrix::pack(&q, Half::F16).expect("the kernels take it");
            let rate = |seconds: f64| packed.codes().len() as f64 / seconds / 1e9;
            let pack = median(|| {
                black_box(PackedMatrix::pack(&q, Half::F16).expect("the kernels take it"));
            });
            let unpack = median(|| {
                black_box(packed.unpack());
            });
            let moved = q.as_scalar().codes.len() + packed.codes().len();
            let [rows, cols] = shape;
            println!(
                "{rows}×{cols} {}: pack {:.2} GB/s, unpack {:.2} GB/s, copy of the same bytes {:.2} GB/s",
                q.scheme(),
                rate(pack),
                rate(unpack),
                rate(copy(moved)),
            );
        }
    }
}
