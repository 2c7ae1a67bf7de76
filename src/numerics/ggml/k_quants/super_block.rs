//! The trait of the k-quants, and how one that has it is a [`BlockCodec`].

use super::layout::Layout;
use crate::numerics::ggml::codec::BlockCodec;
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

/// Values of a super-block.
pub(crate) const SUPER_BLOCK: usize = 256;

/// A k-quant type: its bytes, its numbers, and the search for them.
pub(crate) trait SuperBlock: Layout + Sized {
    /// Quantizes [`SUPER_BLOCK`] values, with as many importances.
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>) -> Parts;

    /// Dequantizes [`SUPER_BLOCK`] values, to the bit as ggml's `dequantize_row_*`.
    fn dequantize(parts: &Parts, out: &mut [f32]);

    /// Packs the numbers.
    fn pack(parts: &Parts) -> Self;

    /// Unpacks the numbers.
    fn unpack(&self) -> Parts;
}

impl<B: SuperBlock> BlockCodec for B {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for (i, (x, out)) in x.chunks_exact(SUPER_BLOCK).zip(out.chunks_exact_mut(B::BYTES)).enumerate() {
            let importance = importance.map(|q| &q[i * SUPER_BLOCK..][..SUPER_BLOCK]);
            B::pack(&B::quantize::<L>(x, importance)).write(out);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(SUPER_BLOCK)) {
            B::dequantize(&B::read(bytes).unpack(), out);
        }
    }

    fn parts(bytes: &[u8]) -> Parts {
        B::read(bytes).unpack()
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        let mut parts = B::read(bytes).unpack();
        parts.codes.copy_from_slice(codes);
        B::pack(&parts).write(bytes);
    }
}
