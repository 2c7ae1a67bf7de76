//! Codes of 4 and 5 bits as blocks of 32 weights store them.

use super::block::{self, BLOCK, PerWeight};

/// A layout of the codes of a block.
pub trait Packing {
    /// Bytes of the codes of a block.
    const BYTES: usize;

    /// Half the number of codes.
    const LEVELS: u8;

    /// Packs codes into [`Self::BYTES`] bytes.
    fn pack(codes: &PerWeight<u8>, out: &mut [u8]);

    /// Unpacks [`Self::BYTES`] bytes.
    fn unpack(bytes: &[u8]) -> PerWeight<u8>;
}

/// 4 bits: 16 bytes of nibbles ([`block::pack_nibbles`]).
pub struct FourBits;

impl Packing for FourBits {
    const BYTES: usize = BLOCK / 2;
    const LEVELS: u8 = 8;

    #[inline(always)]
    fn pack(codes: &PerWeight<u8>, out: &mut [u8]) {
        out.copy_from_slice(&block::pack_nibbles(codes));
    }

    #[inline(always)]
    fn unpack(bytes: &[u8]) -> PerWeight<u8> {
        block::unpack_nibbles(block::first(bytes))
    }
}

/// 5 bits: the fifth bits in 4 bytes ([`block::pack_fifth_bits`]), then 16 bytes of nibbles.
pub struct FiveBits;

impl Packing for FiveBits {
    const BYTES: usize = BLOCK / 8 + BLOCK / 2;
    const LEVELS: u8 = 16;

    #[inline(always)]
    fn pack(codes: &PerWeight<u8>, out: &mut [u8]) {
        let (high, nibbles) = out.split_at_mut(BLOCK / 8);
        high.copy_from_slice(&block::pack_fifth_bits(codes));
        nibbles.copy_from_slice(&block::pack_nibbles(codes));
    }

    #[inline(always)]
    fn unpack(bytes: &[u8]) -> PerWeight<u8> {
        let (high, nibbles) = bytes.split_at(BLOCK / 8);
        let (codes, high) =
            (block::unpack_nibbles(block::first(nibbles)), block::unpack_fifth_bits(*block::first(high)));
        block::each(|j| codes[j] | high[j])
    }
}
