//! What the blocks of 32 weights share: extremes, rounding to codes, packing, f16 scales.
//!
//! Loops over [f32; 32] without branches or calls, so that they vectorize wherever they are inlined: every function
//! here is `inline(always)`, and takes on the target features of the fast path it ends up in. No fused multiply-adds:
//! the result is the same on every machine.

/// Weights per block (per sub-block of IQ4_XS).
pub const BLOCK: usize = 32;

/// Lanes that reductions keep apart: one AVX2 register.
const LANES: usize = 8;

/// The larger; the second if one is NaN (`maxps`, where `f32::max` needs three instructions).
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller; the second if one is NaN.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn reduce(x: &[f32; BLOCK], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = combine(v, *lane);
        }
    }
    let quad = |i: usize| combine(lanes[i], lanes[i + 4]);
    combine(combine(quad(0), quad(2)), combine(quad(1), quad(3)))
}

/// The sum, in an order that no target changes.
#[inline(always)]
pub fn sum(x: &[f32; BLOCK]) -> f32 {
    reduce(x, 0.0, |a, b| a + b)
}

/// [smallest, largest] value.
#[inline(always)]
pub fn extent(x: &[f32; BLOCK]) -> [f32; 2] {
    [reduce(x, f32::INFINITY, smaller), reduce(x, f32::NEG_INFINITY, larger)]
}

/// The largest magnitude.
#[inline(always)]
pub fn absmax(x: &[f32; BLOCK]) -> f32 {
    reduce(&x.map(f32::abs), 0.0, larger)
}

/// The value of the largest magnitude, with its sign: the first of several.
#[inline(always)]
pub fn signed_absmax(x: &[f32; BLOCK]) -> f32 {
    let [low, high] = [reduce(x, 0.0, smaller), reduce(x, 0.0, larger)];
    if high == -low && high > 0.0 {
        return x.iter().copied().find(|v| v.abs() == high).unwrap_or(high);
    }
    if high > -low { high } else { low }
}

/// ⌊(x − base)·inverse + offset⌋ within 0..=last; NaN gives 0.
#[inline(always)]
pub fn codes(x: &[f32; BLOCK], base: f32, inverse: f32, offset: f32, last: u8) -> [u8; BLOCK] {
    x.map(|v| {
        let code = smaller(larger((v - base) * inverse + offset, 0.0), f32::from(last));
        // SAFETY: the clamp above leaves a number within 0..=255.
        unsafe { code.to_int_unchecked::<i32>() as u8 }
    })
}

/// x·inverse rounded to nearest, ties away from zero (C's `roundf`), within ±127; NaN gives −127.
#[inline(always)]
pub fn signed_codes(x: &[f32; BLOCK], inverse: f32) -> [i8; BLOCK] {
    // Half of one, less an ulp: adding a whole half would carry 0.49999997 up to 1.
    const HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    x.map(|v| {
        let scaled = v * inverse;
        let code = smaller(larger(scaled + HALF.copysign(scaled), -127.0), 127.0);
        // SAFETY: the clamp above leaves a number within −127..=127.
        unsafe { code.to_int_unchecked::<i32>() as i8 }
    })
}

/// Rounds to nearest, ties to even, where |v| < 2^22, without a call on targets that lack the instruction.
#[inline(always)]
pub fn round(v: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5·2^23: the sum's last mantissa bit is worth one.
    (v + SHIFT) - SHIFT
}

/// Clamps, as two instructions.
#[inline(always)]
pub fn clamp(v: f32, low: f32, high: f32) -> f32 {
    smaller(larger(v, low), high)
}

/// Low nibbles: code j in the low half of byte j, code 16 + j in its high half.
#[inline(always)]
pub fn pack_nibbles(codes: &[u8; BLOCK]) -> [u8; BLOCK / 2] {
    std::array::from_fn(|j| codes[j] & 15 | codes[j + 16] << 4)
}

/// The inverse of [`pack_nibbles`].
#[inline(always)]
pub fn unpack_nibbles(bytes: &[u8; BLOCK / 2]) -> [u8; BLOCK] {
    std::array::from_fn(|j| if j < 16 { bytes[j] & 15 } else { bytes[j - 16] >> 4 })
}

/// Bit 4 of code j as bit j, little-endian.
#[inline(always)]
pub fn pack_fifth_bits(codes: &[u8; BLOCK]) -> [u8; BLOCK / 8] {
    let eights = codes.as_chunks::<8>().0;
    std::array::from_fn(|i| {
        let bits = u64::from_le_bytes(eights[i]) >> 4 & 0x0101_0101_0101_0101;
        // Moves bit 8j to bit 56 + j; no two terms of the product meet.
        (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    })
}

/// The inverse of [`pack_fifth_bits`]: 16 where the bit is set.
#[inline(always)]
pub fn unpack_fifth_bits(bytes: [u8; BLOCK / 8]) -> [u8; BLOCK] {
    let bits = u32::from_le_bytes(bytes);
    std::array::from_fn(|j| (bits >> j & 1) as u8 * 16)
}

/// Clamps to what f16 holds: a scale that overflowed would dequantize to infinities.
#[inline(always)]
pub fn clamp_to_f16(v: f32) -> f32 {
    clamp(v, -65504.0, 65504.0)
}

/// 1/v, or 0 where that is not finite.
#[inline(always)]
pub fn reciprocal(v: f32) -> f32 {
    let inverse = 1.0 / v;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Pairs each block of values with its bytes.
#[inline(always)]
pub fn blocks<'a, const BYTES: usize>(
    x: &'a [f32],
    bytes: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; BLOCK], &'a mut [u8; BYTES])> {
    x.as_chunks().0.iter().zip(bytes.as_chunks_mut().0)
}

/// Pairs each block's bytes with its values.
#[inline(always)]
pub fn blocks_mut<'a, const BYTES: usize>(
    bytes: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; BLOCK])> {
    bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0)
}
