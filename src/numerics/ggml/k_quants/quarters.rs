//! Four 2-bit codes to a byte, as Q2_K and Q3_K lay them out: each half of a super-block fills 32 bytes, byte i holding
//! elements i, i + 32, i + 64 and i + 96 of the half, the first in the low bits.

use super::super_block::SUPER_BLOCK;

/// Packs codes 0 … 3.
#[inline(always)]
pub(crate) fn pack(codes: &[u8; SUPER_BLOCK]) -> [u8; SUPER_BLOCK / 4] {
    let mut out = [0; SUPER_BLOCK / 4];
    for (out, codes) in out.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
        }
    }
    out
}

/// Unpacks codes 0 … 3.
#[inline(always)]
pub(crate) fn unpack(packed: &[u8; SUPER_BLOCK / 4]) -> [u8; SUPER_BLOCK] {
    let mut codes = [0; SUPER_BLOCK];
    for (codes, packed) in codes.chunks_exact_mut(128).zip(packed.chunks_exact(32)) {
        for (i, byte) in packed.iter().enumerate() {
            codes[i] = byte & 3;
            codes[i + 32] = byte >> 2 & 3;
            codes[i + 64] = byte >> 4 & 3;
            codes[i + 96] = byte >> 6;
        }
    }
    codes
}
