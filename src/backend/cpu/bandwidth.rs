//! The rate at which this machine reads memory. It limits decoding, which reads every weight for every token.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Bytes that a measurement reads at least, in all its passes.
const BYTES: usize = 1 << 30;
/// The largest and the smallest array that is read.
const LARGEST: usize = 512 << 20;
const SMALLEST: usize = 1 << 20;
/// Number of passes at least; the fastest counts.
const PASSES: usize = 5;
/// The description of the first CPU's caches, on Linux.
const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";

/// Returns the bytes per second that all threads of the pool together read at best, by summing an array of about so many
/// bytes again and again: of few, caches hold a part.
pub(crate) fn read_bandwidth(bytes: usize) -> f64 {
    let bytes = bytes.clamp(SMALLEST, LARGEST);
    let values = vec![1u64; bytes / 8];
    let share = values.len().div_ceil(rayon::current_num_threads());
    let mut best: f64 = 0.0;
    for _ in 0..PASSES.max(BYTES / bytes) {
        let start = Instant::now();
        let sums = values.par_chunks(share).map(|part| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)));
        black_box(sums.reduce(|| 0, u64::wrapping_add));
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// The bytes of the largest cache of the first core; `None` if the system does not tell.
pub(crate) fn largest_cache() -> Option<u64> {
    let indices = std::fs::read_dir(CACHES).ok()?.flatten();
    indices.filter_map(|index| parse_size(&std::fs::read_to_string(index.path().join("size")).ok()?)).max()
}

/// `32768K`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let factor = match text.chars().last()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        _ => 1,
    };
    Some(text.trim_end_matches(['K', 'M']).parse::<u64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches() {
        assert_eq!(parse_size("32768K\n"), Some(32 << 20));
        assert_eq!(parse_size("96M"), Some(96 << 20));
        assert_eq!([parse_size("4096"), parse_size(""), parse_size("x")], [Some(4096), None, None]);
    }

    #[test]
    fn memory_is_read_at_a_plausible_rate() {
        let rate = read_bandwidth(1 << 20);
        assert!((1e8..1e14).contains(&rate), "{rate}");
    }
}
