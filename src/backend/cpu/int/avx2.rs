//! [`IntLanes`] in AVX2: two registers are sixteen lanes.
//!
//! Bytes are multiplied and added in pairs to 16 bits (`maddubs`), which saturates on overflow. So codes are nibbles
//! there; a byte is split into two. A pair gives at most 2·15·128 = 3,840 in magnitude, the eight pairs of a step
//! 30,720, below 32,767. Only then are sums widened.
//!
//! Values exist only inside functions that are entered after a check for AVX2 and F16C. This is the SAFETY argument of
//! every block.

use std::arch::x86_64::*;

use super::lanes::IntLanes;
use super::line::{Line, PerRow};

/// Lanes in pairs of 256-bit registers.
pub(crate) struct Avx2Int;

/// Sixteen lanes of 32 bits, or 32 of 16 bits.
type Pair = [__m256i; 2];

/// Sums of 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Dot {
    /// Sums of nibbles, or of the low halves of bytes.
    low: Pair,
    /// Sums of the high halves of bytes.
    high: Pair,
}

macro_rules! binary {
    ($($name:ident: $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: AVX2 was detected, see the module.
            unsafe { [$intrinsic(a[0], b[0]), $intrinsic(a[1], b[1])] }
        }
    )*};
}

/// Returns the low and high halves of a line's bytes.
#[inline(always)]
fn halves(line: &Line) -> [Pair; 2] {
    // SAFETY: AVX2 was detected, see the module; a line is 64 bytes.
    unsafe {
        let (at, mask) = (line.as_ptr().cast::<__m256i>(), _mm256_set1_epi8(15));
        let [a, b] = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
        let low = [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)];
        let [a, b] = [_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b)];
        [low, [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)]]
    }
}

#[inline(always)]
fn add_products(sums: Pair, codes: Pair, inputs: i32) -> Pair {
    // SAFETY: AVX2 was detected, see the module.
    unsafe {
        let inputs = _mm256_set1_epi32(inputs);
        let [a, b] = [_mm256_maddubs_epi16(codes[0], inputs), _mm256_maddubs_epi16(codes[1], inputs)];
        [_mm256_add_epi16(sums[0], a), _mm256_add_epi16(sums[1], b)]
    }
}

/// Loads 16 bytes.
#[inline(always)]
fn load_bytes<T>(values: &PerRow<T>) -> [__m128i; 2] {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: AVX2 was detected, see the module; 16 bytes are readable.
    unsafe {
        let bytes = _mm_loadu_si128(values.as_ptr().cast());
        [bytes, _mm_unpackhi_epi64(bytes, bytes)]
    }
}

/// Loads 2 × 8 numbers of 16 bits.
#[inline(always)]
fn load_halves(bits: &PerRow<u16>) -> [__m128i; 2] {
    // SAFETY: AVX2 was detected, see the module; 32 bytes are readable.
    unsafe { [_mm_loadu_si128(bits.as_ptr().cast()), _mm_loadu_si128(bits.as_ptr().add(8).cast())] }
}

#[inline(always)]
fn to_floats([a, b]: Pair) -> [__m256; 2] {
    // SAFETY: AVX2 was detected, see the module.
    unsafe { [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)] }
}

impl IntLanes for Avx2Int {
    type Nibbles = Pair;
    type Bytes = [Pair; 2];
    type Dot = Dot;
    type Floats = [__m256; 2];

    binary!(mul: _mm256_mul_ps, add: _mm256_add_ps, sub: _mm256_sub_ps);

    #[inline(always)]
    fn nibbles(line: &Line) -> [Pair; 2] {
        halves(line)
    }
    #[inline(always)]
    fn bytes(line: &Line) -> [Pair; 2] {
        halves(line)
    }
    #[inline(always)]
    fn start(_base: i32) -> Dot {
        // SAFETY: AVX2 was detected, see the module.
        let zero = unsafe { _mm256_setzero_si256() };
        Dot { low: [zero; 2], high: [zero; 2] }
    }
    #[inline(always)]
    fn add_nibbles(mut dot: Dot, codes: Pair, inputs: i32) -> Dot {
        dot.low = add_products(dot.low, codes, inputs);
        dot
    }
    #[inline(always)]
    fn add_bytes(mut dot: Dot, [low, high]: [Pair; 2], inputs: i32) -> Dot {
        dot.low = add_products(dot.low, low, inputs);
        dot.high = add_products(dot.high, high, inputs);
        dot
    }
    #[inline(always)]
    fn finish(dot: Dot, base: i32) -> [__m256; 2] {
        // SAFETY: AVX2 was detected, see the module.
        unsafe {
            let (one, sixteen) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
            let base = _mm256_set1_epi32(base);
            let sum = |i: usize| {
                let low = _mm256_madd_epi16(dot.low[i], one);
                let high = _mm256_madd_epi16(dot.high[i], sixteen);
                _mm256_add_epi32(base, _mm256_add_epi32(low, high))
            };
            to_floats([sum(0), sum(1)])
        }
    }
    #[inline(always)]
    fn splat(value: f32) -> [__m256; 2] {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn splat_integer(value: i32) -> [__m256; 2] {
        // SAFETY: AVX2 was detected, see the module.
        to_floats(unsafe { [_mm256_set1_epi32(value); 2] })
    }
    #[inline(always)]
    fn floats(values: &PerRow<f32>) -> [__m256; 2] {
        // SAFETY: AVX2 was detected, see the module; 16 floats are readable.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn floats_of_f16(bits: &PerRow<u16>) -> [__m256; 2] {
        let [a, b] = load_halves(bits);
        // SAFETY: F16C was detected, see the module.
        unsafe { [_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)] }
    }
    #[inline(always)]
    fn floats_of_bf16(bits: &PerRow<u16>) -> [__m256; 2] {
        let [a, b] = load_halves(bits);
        // SAFETY: AVX2 was detected, see the module.
        unsafe {
            let [a, b] = [_mm256_cvtepu16_epi32(a), _mm256_cvtepu16_epi32(b)];
            let [a, b] = [_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b)];
            [_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)]
        }
    }
    #[inline(always)]
    fn floats_of_i8(values: &PerRow<i8>) -> [__m256; 2] {
        let [a, b] = load_bytes(values);
        // SAFETY: AVX2 was detected, see the module.
        to_floats(unsafe { [_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(b)] })
    }
    #[inline(always)]
    fn floats_of_u8(values: &PerRow<u8>) -> [__m256; 2] {
        let [a, b] = load_bytes(values);
        // SAFETY: AVX2 was detected, see the module.
        to_floats(unsafe { [_mm256_cvtepu8_epi32(a), _mm256_cvtepu8_epi32(b)] })
    }
    #[inline(always)]
    fn store([a, b]: [__m256; 2]) -> PerRow<f32> {
        let mut out = [0.0; 16];
        // SAFETY: AVX2 was detected, see the module; 16 floats are writable.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), a);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), b);
        }
        out
    }
}
