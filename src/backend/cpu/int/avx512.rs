//! [`IntLanes`] in AVX-512 with VNNI: a register is sixteen lanes, and one instruction adds four products to each.
//!
//! Values exist only inside functions that are entered after a check for avx512f, avx512bw and avx512vnni. This is the
//! SAFETY argument of every block.

use std::arch::x86_64::*;

use super::lanes::IntLanes;
use super::line::{Line, PerRow};

/// Lanes in 512-bit registers.
pub(crate) struct Avx512Int;

macro_rules! binary {
    ($($name:ident: $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(a: __m512, b: __m512) -> __m512 {
            // SAFETY: AVX-512 was detected, see the module.
            unsafe { $intrinsic(a, b) }
        }
    )*};
}

impl IntLanes for Avx512Int {
    type Nibbles = __m512i;
    type Bytes = __m512i;
    type Dot = __m512i;
    type Floats = __m512;

    binary!(mul: _mm512_mul_ps, add: _mm512_add_ps, sub: _mm512_sub_ps);

    #[inline(always)]
    fn nibbles(line: &Line) -> [__m512i; 2] {
        // SAFETY: AVX-512 was detected, see the module; a line is 64 bytes.
        unsafe {
            let (codes, low) = (_mm512_loadu_si512(line.as_ptr().cast()), _mm512_set1_epi8(15));
            [_mm512_and_si512(codes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low)]
        }
    }
    #[inline(always)]
    fn bytes(line: &Line) -> __m512i {
        // SAFETY: AVX-512 was detected, see the module; a line is 64 bytes.
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }
    #[inline(always)]
    fn start(base: i32) -> __m512i {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { _mm512_set1_epi32(base) }
    }
    #[inline(always)]
    fn add_nibbles(dot: __m512i, codes: __m512i, inputs: i32) -> __m512i {
        Self::add_bytes(dot, codes, inputs)
    }
    #[inline(always)]
    fn add_bytes(dot: __m512i, codes: __m512i, inputs: i32) -> __m512i {
        // SAFETY: AVX-512 with VNNI was detected, see the module.
        unsafe { _mm512_dpbusd_epi32(dot, codes, _mm512_set1_epi32(inputs)) }
    }
    #[inline(always)]
    fn finish(dot: __m512i, _base: i32) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { _mm512_cvtepi32_ps(dot) }
    }
    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn splat_integer(value: i32) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { _mm512_cvtepi32_ps(_mm512_set1_epi32(value)) }
    }
    #[inline(always)]
    fn floats(values: &PerRow<f32>) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module; 16 floats are readable.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn floats_of_f16(bits: &PerRow<u16>) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module; 32 bytes are readable.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())) }
    }
    #[inline(always)]
    fn floats_of_bf16(bits: &PerRow<u16>) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module; 32 bytes are readable.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn floats_of_i8(values: &PerRow<i8>) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module; 16 bytes are readable.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn floats_of_u8(values: &PerRow<u8>) -> __m512 {
        // SAFETY: AVX-512 was detected, see the module; 16 bytes are readable.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(values.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store(values: __m512) -> PerRow<f32> {
        let mut out = [0.0; 16];
        // SAFETY: AVX-512 was detected, see the module; 16 floats are writable.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
        out
    }
}
