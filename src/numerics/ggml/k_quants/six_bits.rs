//! The 6-bit scales and mins of Q4_K and Q5_K: 16 numbers in 12 bytes (`get_scale_min_k4` of ggml-quants.c).
//!
//! Bytes 0 … 3 hold scales 0 … 3 and bytes 4 … 7 mins 0 … 3, in their low 6 bits; bytes 8 … 11 hold the low 4 bits of scales
//! 4 … 7 (low nibble) and of mins 4 … 7 (high nibble), whose high 2 bits sit atop bytes 0 … 3 and 4 … 7.

use crate::numerics::ggml::parts::Parts;

/// Packs the first 8 scales and minimums.
#[inline(always)]
pub(crate) fn pack(parts: &Parts) -> [u8; 12] {
    let (scales, mins) = (parts.scales.map(i8::cast_unsigned), &parts.minimums);
    let mut out = [0; 12];
    for j in 0..4 {
        out[j] = scales[j] | scales[j + 4] >> 4 << 6;
        out[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        out[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
    out
}

/// Unpacks to the first 8 scales and minimums.
#[inline(always)]
pub(crate) fn unpack(packed: &[u8; 12]) -> ([i8; 16], [u8; 16]) {
    let (mut scales, mut mins) = ([0; 16], [0; 16]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = packed[j + 8] & 15 | packed[j] >> 6 << 4;
        mins[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
    }
    (scales.map(u8::cast_signed), mins)
}
