//! The common operations of the blocks of 32 weights: extremes, rounding to codes, packing, f16 scales.
//!
//! Loops over [f32; 32] without branches or calls, so that they vectorize: every function here is `inline(always)`, and takes
//! on the target features of its caller. No fused multiply-adds: the result is the same on every machine.

use half::f16;

/// Weights per block (per sub-block of IQ4_XS).
pub(crate) const BLOCK: usize = 32;

/// Lanes that reductions keep apart: one AVX2 register.
const LANES: usize = 8;

/// A value per weight of a block.
pub(crate) type PerWeight<T> = [T; BLOCK];

/// Does the same as `array::from_fn`, as a loop that vectorizes.
#[inline(always)]
pub(crate) fn each<T: Copy + Default>(f: impl Fn(usize) -> T) -> PerWeight<T> {
    let mut out = [T::default(); BLOCK];
    for (j, out) in out.iter_mut().enumerate() {
        *out = f(j);
    }
    out
}

/// Returns the larger; the second if one is NaN (`maxps`; `f32::max` needs three instructions).
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Returns the smaller; the second if one is NaN.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Combines the lanes.
#[inline(always)]
fn across(lanes: &[f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let pair = |i: usize| combine(combine(lanes[i], lanes[i + 4]), combine(lanes[i + 2], lanes[i + 6]));
    combine(pair(0), pair(1))
}

#[inline(always)]
fn reduce(x: &PerWeight<f32>, start: f32, combine: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut lanes = [start; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = combine(v, *lane);
        }
    }
    across(&lanes, combine)
}

/// Returns the [smallest, largest] value.
#[inline(always)]
pub(crate) fn extent(x: &PerWeight<f32>) -> [f32; 2] {
    [reduce(x, f32::INFINITY, smaller), reduce(x, f32::NEG_INFINITY, larger)]
}

/// Returns the largest magnitude.
#[inline(always)]
pub(crate) fn absmax(x: &PerWeight<f32>) -> f32 {
    reduce(&each(|j| x[j].abs()), 0.0, larger)
}

/// Returns the value of the largest magnitude, with its sign: the first of several.
#[inline(always)]
pub(crate) fn signed_absmax(x: &PerWeight<f32>) -> f32 {
    let [low, high] = [reduce(x, 0.0, smaller), reduce(x, 0.0, larger)];
    if high == -low && high > 0.0 {
        return x.iter().copied().find(|v| v.abs() == high).unwrap_or(high);
    }
    if high > -low { high } else { low }
}

/// Returns ⌊(x − base)·inverse + offset⌋ within 0..=last; NaN gives 0.
#[inline(always)]
pub(crate) fn codes(x: &PerWeight<f32>, base: f32, inverse: f32, offset: f32, last: u8) -> PerWeight<u8> {
    each(|j| {
        let code = smaller(larger((x[j] - base) * inverse + offset, 0.0), f32::from(last));
        // SAFETY: the clamp above leaves a number within 0..=255.
        unsafe { code.to_int_unchecked::<i32>() as u8 }
    })
}

/// Returns x·inverse rounded to nearest, ties away from zero (C's `roundf`), within ±127, in two's complement; NaN gives −127.
#[inline(always)]
pub(crate) fn signed_codes(x: &PerWeight<f32>, inverse: f32) -> PerWeight<u8> {
    // One half less an ulp: adding one half would round 0.49999997 up to 1.
    const HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    each(|j| {
        let scaled = x[j] * inverse;
        let code = smaller(larger(scaled + HALF.copysign(scaled), -127.0), 127.0);
        // SAFETY: the clamp above leaves a number within −127..=127.
        unsafe { code.to_int_unchecked::<i32>() as u8 }
    })
}

/// Clamps, as two instructions.
#[inline(always)]
pub(crate) fn clamp(v: f32, low: f32, high: f32) -> f32 {
    smaller(larger(v, low), high)
}

/// Packs the low nibbles: code j in the low half of byte j, code 16 + j in its high half.
#[inline(always)]
pub(crate) fn pack_nibbles(codes: &PerWeight<u8>) -> [u8; BLOCK / 2] {
    let mut bytes = [0; BLOCK / 2];
    for (j, byte) in bytes.iter_mut().enumerate() {
        *byte = codes[j] & 15 | codes[j + 16] << 4;
    }
    bytes
}

/// Unpacks nibbles: the inverse of [`pack_nibbles`].
#[inline(always)]
pub(crate) fn unpack_nibbles(bytes: &[u8; BLOCK / 2]) -> PerWeight<u8> {
    let mut codes = [0; BLOCK];
    let (low, high) = codes.split_at_mut(BLOCK / 2);
    for (j, byte) in bytes.iter().enumerate() {
        (low[j], high[j]) = (byte & 15, byte >> 4);
    }
    codes
}

/// Packs bit 4 of code j as bit j, little-endian.
#[inline(always)]
pub(crate) fn pack_fifth_bits(codes: &PerWeight<u8>) -> [u8; BLOCK / 8] {
    let eights = codes.as_chunks::<8>().0;
    std::array::from_fn(|i| {
        let bits = u64::from_le_bytes(eights[i]) >> 4 & 0x0101_0101_0101_0101;
        // Moves bit 8j to bit 56 + j; no two terms of the product meet.
        (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    })
}

/// Unpacks fifth bits: 16 if the bit is set. The inverse of [`pack_fifth_bits`].
#[inline(always)]
pub(crate) fn unpack_fifth_bits(bytes: [u8; BLOCK / 8]) -> PerWeight<u8> {
    let bits = u32::from_le_bytes(bytes);
    each(|j| (bits >> j & 1) as u8 * 16)
}

/// Clamps to the finite values of f16: a scale that overflowed would dequantize to infinities.
#[inline(always)]
pub(crate) fn clamp_to_f16(v: f32) -> f32 {
    clamp(v, -65504.0, 65504.0)
}

/// Returns 1/v, or 0 if that is not finite.
#[inline(always)]
pub(crate) fn reciprocal(v: f32) -> f32 {
    let inverse = 1.0 / v;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Returns the first bytes of a block.
///
/// # Panics
/// If there are fewer.
#[inline(always)]
pub(crate) fn first<const BYTES: usize>(bytes: &[u8]) -> &[u8; BYTES] {
    bytes.first_chunk().expect("a whole block was given")
}

/// Returns the first bytes of a block, to be written.
///
/// # Panics
/// If there are fewer.
#[inline(always)]
pub(crate) fn first_mut<const BYTES: usize>(bytes: &mut [u8]) -> &mut [u8; BYTES] {
    bytes.first_chunk_mut().expect("a whole block was given")
}

/// Returns the f16 that a block begins with.
#[inline(always)]
pub(crate) fn half(bytes: &[u8]) -> f16 {
    f16::from_le_bytes(*first(bytes))
}
