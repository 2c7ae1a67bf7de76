//! [`BlockCodec`]: the operations of one block type, and [`Functions`]: the same as pointers, compiled for this machine.

use super::lanes::Lanes;
#[cfg(not(target_arch = "aarch64"))]
use super::lanes::PlainLanes;
#[cfg(target_arch = "x86_64")]
use super::lanes_avx2::Avx2Lanes;
#[cfg(target_arch = "aarch64")]
use super::lanes_neon::NeonLanes;
use super::parts::Parts;

/// A block type. Methods on rows must be `#[inline(always)]`, so that they take on the instruction set of their caller.
pub(crate) trait BlockCodec {
    /// Quantizes a row of whole blocks; `importance` weighs the error of each column.
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// Dequantizes a row of whole blocks. Any bytes are blocks.
    fn dequantize_row(bytes: &[u8], out: &mut [f32]);

    /// Takes one block apart.
    fn parts(bytes: &[u8]) -> Parts;

    /// Replaces the codes of one block, as [`Parts`] has them, and keeps its scales and minimums. IQ4 takes the nearest of its
    /// levels.
    ///
    /// # Panics
    /// If there are fewer bytes or codes.
    fn put_codes(bytes: &mut [u8], codes: &[u8]);
}

/// The operations of one block type.
pub(crate) struct Functions {
    /// [`BlockCodec::quantize_row`].
    pub quantize_row: fn(&[f32], Option<&[f32]>, &mut [u8]),
    /// [`BlockCodec::dequantize_row`].
    pub dequantize_row: fn(&[u8], &mut [f32]),
    /// [`BlockCodec::parts`].
    pub parts: fn(&[u8]) -> Parts,
    /// [`BlockCodec::put_codes`].
    pub put_codes: fn(&mut [u8], &[u8]),
}

impl Functions {
    /// Returns the functions over the fastest lanes of this machine: AVX2 or NEON where it has them.
    pub(crate) fn fastest<B: BlockCodec>() -> Functions {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Functions {
                // SAFETY: AVX2 has just been detected.
                quantize_row: |x, importance, out| unsafe { quantize_row_avx2::<B>(x, importance, out) },
                // SAFETY: as above.
                dequantize_row: |bytes, out| unsafe { dequantize_row_avx2::<B>(bytes, out) },
                ..Functions::over::<B, PlainLanes>()
            };
        }
        #[cfg(target_arch = "aarch64")]
        return Functions::over::<B, NeonLanes>();
        #[cfg(not(target_arch = "aarch64"))]
        Functions::over::<B, PlainLanes>()
    }

    /// Returns the functions over the given lanes, compiled for the baseline of the target.
    pub(crate) fn over<B: BlockCodec, L: Lanes>() -> Functions {
        Functions {
            quantize_row: B::quantize_row::<L>,
            dequantize_row: B::dequantize_row,
            parts: B::parts,
            put_codes: B::put_codes,
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_row_avx2<B: BlockCodec>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    B::quantize_row::<Avx2Lanes>(x, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dequantize_row_avx2<B: BlockCodec>(bytes: &[u8], out: &mut [f32]) {
    B::dequantize_row(bytes, out);
}
