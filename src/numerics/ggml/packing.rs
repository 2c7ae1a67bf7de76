//! Codes of 4 and 5 bits as blocks of 32 weights store them.

use super::block::{self, BLOCK, PerWeight};

/// A layout of the codes of a block in N bytes.
pub(crate) trait Packing<const N: usize> {
    /// Half the number of codes.
    const LEVELS: u8;

    /// Packs codes.
    fn pack(codes: &PerWeight<u8>, out: &mut [u8; N]);

    /// Unpacks the low and the high bits of codes. The caller joins them with `|`, in the loop that uses the codes: two loops
    /// are a quarter slower.
    fn halves(bytes: &[u8; N]) -> [PerWeight<u8>; 2];

    /// Unpacks codes.
    #[inline(always)]
    fn unpack(bytes: &[u8; N]) -> PerWeight<u8> {
        let [low, high] = Self::halves(bytes);
        block::each(|j| low[j] | high[j])
    }
}

/// 4 bits: 16 bytes of nibbles ([`block::pack_nibbles`]).
pub(crate) struct FourBits;

impl Packing<{ BLOCK / 2 }> for FourBits {
    const LEVELS: u8 = 8;

    #[inline(always)]
    fn pack(codes: &PerWeight<u8>, out: &mut [u8; BLOCK / 2]) {
        *out = block::pack_nibbles(codes);
    }

    #[inline(always)]
    fn halves(bytes: &[u8; BLOCK / 2]) -> [PerWeight<u8>; 2] {
        [block::unpack_nibbles(bytes), [0; BLOCK]]
    }
}

/// 5 bits: the fifth bits in 4 bytes ([`block::pack_fifth_bits`]), then 16 bytes of nibbles.
pub(crate) struct FiveBits;

impl Packing<{ BLOCK / 8 + BLOCK / 2 }> for FiveBits {
    const LEVELS: u8 = 16;

    #[inline(always)]
    fn pack(codes: &PerWeight<u8>, out: &mut [u8; BLOCK / 8 + BLOCK / 2]) {
        let [h0, h1, h2, h3, nibbles @ ..] = out;
        [*h0, *h1, *h2, *h3] = block::pack_fifth_bits(codes);
        *nibbles = block::pack_nibbles(codes);
    }

    #[inline(always)]
    fn halves(bytes: &[u8; BLOCK / 8 + BLOCK / 2]) -> [PerWeight<u8>; 2] {
        let [h0, h1, h2, h3, nibbles @ ..] = bytes;
        [block::unpack_nibbles(nibbles), block::unpack_fifth_bits([*h0, *h1, *h2, *h3])]
    }
}
