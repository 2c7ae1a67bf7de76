//! F16 ↔ f32 with F16C, which converts eight values in one instruction. Its plain twin is `half`.

use std::arch::x86_64::{
    _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_storeu_ps,
};

/// Values that one instruction converts.
const LANES: usize = 8;
/// Rounding to nearest, ties to even.
const NEAREST: i32 = 0;

/// Converts little-endian halves; returns false, having done nothing, where the CPU has no F16C.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) -> bool {
    let has = is_x86_feature_detected!("f16c");
    if has {
        // SAFETY: the CPU has F16C.
        unsafe { decode_all(bytes, out) };
    }
    has
}

/// Rounds to little-endian halves; returns false, having done nothing, where the CPU has no F16C.
pub(super) fn encode(values: &[f32], bytes: &mut [u8]) -> bool {
    let has = is_x86_feature_detected!("f16c");
    if has {
        // SAFETY: the CPU has F16C.
        unsafe { encode_all(values, bytes) };
    }
    has
}

#[target_feature(enable = "f16c")]
fn decode_all(bytes: &[u8], out: &mut [f32]) {
    let (byte_chunks, byte_rest) = bytes.as_chunks::<{ 2 * LANES }>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<LANES>();
    for (bytes, out) in byte_chunks.iter().zip(out_chunks) {
        *out = decode_eight(bytes);
    }
    let mut last = [0; 2 * LANES];
    last[..byte_rest.len()].copy_from_slice(byte_rest);
    out_rest.copy_from_slice(&decode_eight(&last)[..out_rest.len()]);
}

#[target_feature(enable = "f16c")]
fn decode_eight(bytes: &[u8; 2 * LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: the load reads the 16 bytes of the array, the store writes the 32 bytes of the other; neither needs alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast()))) };
    out
}

#[target_feature(enable = "f16c")]
fn encode_all(values: &[f32], bytes: &mut [u8]) {
    let (value_chunks, value_rest) = values.as_chunks::<LANES>();
    let (byte_chunks, byte_rest) = bytes.as_chunks_mut::<{ 2 * LANES }>();
    for (values, bytes) in value_chunks.iter().zip(byte_chunks) {
        *bytes = encode_eight(values);
    }
    let mut last = [0.0; LANES];
    last[..value_rest.len()].copy_from_slice(value_rest);
    byte_rest.copy_from_slice(&encode_eight(&last)[..byte_rest.len()]);
}

#[target_feature(enable = "f16c")]
fn encode_eight(values: &[f32; LANES]) -> [u8; 2 * LANES] {
    let mut bytes = [0; 2 * LANES];
    // SAFETY: the load reads the 32 bytes of the array, the store writes the 16 bytes of the other; neither needs alignment.
    unsafe {
        let halves = _mm256_cvtps_ph::<NEAREST>(_mm256_loadu_ps(values.as_ptr()));
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), halves);
    }
    bytes
}
