//! The k-quants, Q2_K to Q6_K: super-blocks of 256 values, cut into sub-blocks of 16 or 32 whose scales are integers too.
//!
//! Each type is a file: its layout, and the plan of its search. [`affine`] searches x ≈ scale·code − min (Q2_K, Q4_K,
//! Q5_K), [`signed`] searches x ≈ scale·code (Q3_K, Q6_K); both run over [`lanes`], eight sub-blocks side by side.
//!
//! The errors minimized are llama.cpp's, the search is our own, so the bytes differ from llama.cpp's while any reader
//! of the format reads them. What the search does, for each super-block:
//!
//! 1. scale it by a power of two into [1, 2) and weigh its elements ([`weights`]);
//! 2. fit each sub-block: codes from a few candidate steps, then scale and min by weighted least squares; the best wins;
//! 3. choose the super-block's f16 scales, then for each sub-block the integer scale near its fit whose codes err least;
//! 4. solve for the f16 scales again by least squares over all codes; 3 and 4 may repeat; then round the final codes.
//!
//! Finite input gives finite blocks: scales saturate at f16's largest value (Q2_K, whose codes and scales reach least
//! far, clips values beyond about 10⁶), and what is too small for f16's subnormals becomes zero. NaN and infinities are
//! refused by `io`; here they would give unspecified values, never a panic.

mod affine;
mod half_scale;
mod layout;
mod quarters;
mod signed;
mod six_bits;
#[cfg(test)]
mod tests;
mod weights;

pub mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;

use super::lanes::{self, Lanes};
#[cfg(target_arch = "x86_64")]
use super::lanes_avx2;
#[cfg(target_arch = "aarch64")]
use super::lanes_neon;
use super::parts::Parts;

/// Values of a super-block.
const SUPER_BLOCK: usize = 256;

/// A k-quant type.
trait SuperBlock {
    /// Bytes of a super-block.
    const BYTES: usize;

    /// Quantizes [`SUPER_BLOCK`] values, with as many importances, to [`Self::BYTES`] bytes.
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// [`Self::BYTES`] bytes → [`SUPER_BLOCK`] values.
    fn dequantize(bytes: &[u8], out: &mut [f32]);
}

/// Quantizes a row of whole super-blocks on the fastest lanes this machine has.
///
/// # Panics
/// Where `importance` is shorter than `x`. Values beyond the last whole super-block are left alone.
fn quantize_row<B: SuperBlock>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { quantize_row_avx2::<B>(x, importance, out) };
    }
    #[cfg(target_arch = "aarch64")]
    quantize_row_with::<B, lanes_neon::Neon>(x, importance, out);
    #[cfg(not(target_arch = "aarch64"))]
    quantize_row_with::<B, lanes::Plain>(x, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_row_avx2<B: SuperBlock>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    quantize_row_with::<B, lanes_avx2::Avx2>(x, importance, out);
}

#[inline(always)]
fn quantize_row_with<B: SuperBlock, L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (i, (x, out)) in x.chunks_exact(SUPER_BLOCK).zip(out.chunks_exact_mut(B::BYTES)).enumerate() {
        let importance = importance.map(|q| &q[i * SUPER_BLOCK..][..SUPER_BLOCK]);
        B::quantize::<L>(x, importance, out);
    }
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_*` does.
fn dequantize_row<B: SuperBlock>(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { dequantize_row_avx2::<B>(bytes, out) };
    }
    dequantize_row_with::<B>(bytes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dequantize_row_avx2<B: SuperBlock>(bytes: &[u8], out: &mut [f32]) {
    dequantize_row_with::<B>(bytes, out);
}

#[inline(always)]
fn dequantize_row_with<B: SuperBlock>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(SUPER_BLOCK)) {
        B::dequantize(bytes, out);
    }
}
