//! The values behind candle tensors on the CPU, and how loops over them are shared out: by rows, in chunks that depend on
//! the shape alone, so that results do not depend on the number of threads.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::numerics::simd::{self, Kernel};

/// Elements per share.
const SHARE: usize = 1 << 14;

/// The values of a contiguous f32 argument of a custom operation.
pub(super) fn of<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a contiguous tensor was expected")
    };
    // A part of nothing begins behind its end.
    Ok(if start == end { &[] } else { &storage.as_slice::<f32>()?[start..end] })
}

/// Shows the values of a contiguous f32 tensor on the CPU.
pub(super) fn see<R>(x: &Tensor, look: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => look(of(storage, layout)?),
        _ => candle_core::bail!("a tensor on the CPU was expected"),
    }
}

/// Fills rows of `out`, each share by a kernel that is made from the number of its first row and the share itself.
pub(super) fn fill_rows<'a, K: Kernel>(
    out: &'a mut [f32],
    cols: usize,
    kernel: impl Fn(usize, &'a mut [f32]) -> K + Sync,
) {
    let rows = SHARE.div_ceil(cols.max(1));
    let shares = out.par_chunks_mut(rows * cols.max(1)).enumerate();
    shares.for_each(|(i, share)| {
        simd::dispatch(kernel(i * rows, share));
    });
}

/// Partial sums kept apart: a vector register of them.
const LANES: usize = 16;

/// Σ f(aᵢ, bᵢ), in an order that no target changes.
#[inline(always)]
pub(super) fn total(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += f(*a, *b);
    }
    lanes.iter().sum()
}

/// eˣ within 2 ulp for x in [−87, 88], as arithmetic that vectorizes; the coefficients are those of the Cephes library's
/// `expf` (<https://www.netlib.org/cephes/>). Below, e⁻⁸⁷, which is as good as 0.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to a whole number, which the low bits then hold.
    const ROUNDER: f32 = 12_582_912.0;
    let x = simd::min(simd::max(x, -87.0), 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 1.666_666_5e-1)
        * r
        + 0.5;
    let power = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    (p * (r * r) + r + 1.0) * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_that_of_the_library() {
        for i in -8_700..=8_800i16 {
            let x = f32::from(i) / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "{x}: {} {expected}", exp(x));
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
