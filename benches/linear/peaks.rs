//! The limits of the machine: loops that only multiply registers, and a sum over an array larger than the caches.

use std::hint::black_box;
use std::time::Instant;

/// Prints the peaks of this number of threads.
pub fn print(threads: usize) {
    let values = vec![1u64; 32 << 20];
    let part = values.len() / threads;
    let bytes = rate(threads, (8 * part) as f64, |thread| sum(&values[thread * part..][..part]) as f32);
    println!("peaks of {threads} threads: read {bytes:.1} GB/s");
    #[cfg(target_arch = "x86_64")]
    x86::print(threads);
}

/// Returns billions per second over all threads, each with this much work: the third best of nine runs.
fn rate(threads: usize, work: f64, run: impl Fn(usize) -> f32 + Sync) -> f64 {
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let run = &run;
                    scope.spawn(move || black_box(run(thread)));
                }
            });
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    threads as f64 * work / seconds[2] / 1e9
}

fn sum(values: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for values in values.as_chunks::<32>().0 {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
    }
    sums.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::is_x86_feature_detected as has;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::rate;

    const ROUNDS: usize = 2_000_000;

    pub fn print(threads: usize) {
        if has!("avx2") && has!("fma") {
            // SAFETY: AVX2 and FMA were detected.
            let rate = rate(threads, (ROUNDS * 12 * 8) as f64, |_| unsafe { fma_256() });
            println!("  f32 products, 256 bits: {rate:.0} G/s");
        }
        if has!("avx512f") {
            // SAFETY: AVX-512 was detected.
            let rate = rate(threads, (ROUNDS * 24 * 16) as f64, |_| unsafe { fma_512() });
            println!("  f32 products, 512 bits: {rate:.0} G/s");
        }
        if has!("avx512bf16") {
            // SAFETY: AVX512_BF16 was detected.
            let rate = rate(threads, (ROUNDS * 24 * 32) as f64, |_| unsafe { bf16_512() });
            println!("  bf16 products: {rate:.0} G/s");
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256() -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(1.0)), _mm256_set1_ps(black_box(0.5)));
        let mut sums = [_mm256_setzero_ps(); 12];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(a, b, *sum));
        }
        _mm256_cvtss_f32(sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).unwrap_or(a))
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512() -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(0.5)));
        let mut sums = [_mm512_setzero_ps(); 24];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(a, b, *sum));
        }
        _mm512_reduce_add_ps(sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).unwrap_or(a))
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512() -> f32 {
        let ones = _mm512_set1_ps(black_box(1.0));
        let (a, b) = (_mm512_cvtne2ps_pbh(ones, ones), _mm512_cvtne2ps_pbh(ones, ones));
        let mut sums = [_mm512_setzero_ps(); 24];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, a, b));
        }
        _mm512_reduce_add_ps(sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).unwrap_or(ones))
    }
}
