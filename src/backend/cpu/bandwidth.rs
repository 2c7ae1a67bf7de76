//! The rate at which this machine reads memory. It limits decoding, which reads every weight for every token.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Bytes read per pass, far more than any cache holds.
const BYTES: usize = 512 << 20;
/// Number of passes; the fastest counts.
const PASSES: usize = 5;

/// Returns the bytes per second that all threads of the pool together read at best, by summing an array that fits in no
/// cache.
pub(crate) fn read_bandwidth() -> f64 {
    let values = vec![1u64; BYTES / 8];
    let share = values.len().div_ceil(rayon::current_num_threads());
    let mut best: f64 = 0.0;
    for _ in 0..PASSES {
        let start = Instant::now();
        let sums = values.par_chunks(share).map(|part| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)));
        black_box(sums.reduce(|| 0, u64::wrapping_add));
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}
