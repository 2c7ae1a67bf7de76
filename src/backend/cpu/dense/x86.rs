//! [`FloatLanes`] in one 512-bit register, and in two 256-bit ones.
//!
//! Values of these types exist only inside functions that are entered after their instruction sets were detected (see
//! `kernel::PanelProduct::compute`). This is the SAFETY argument of every block here.

use std::arch::x86_64::*;

use super::super::pages::Line;
use super::lanes::{FloatLanes, FloatTile, Format, widen};
use super::tile::tile;

/// Dispatches a number of rows to the tile of that height.
macro_rules! tiles {
    ($lanes:ty, $format:ty, $args:ident, $rows:ident, $panels:literal; $($r:literal)* | $last:literal) => {
        match $rows {
            $($r => tile::<$lanes, $format, $r, $panels>($args),)*
            _ => tile::<$lanes, $format, $last, $panels>($args),
        }
    };
}

/// Lanes in two 256-bit registers.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2Float(__m256, __m256);

impl FloatLanes for Avx2Float {
    type Raw = (__m256i, __m256i);

    const PANELS: usize = 1;
    const ROW_PANELS: usize = 4;

    #[inline(always)]
    fn most_rows(columns: usize) -> usize {
        // Of 16 registers, each column of weights takes two, and an input takes one.
        if columns == 1 { 6 } else { 5 }
    }
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Float(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Float(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: FMA was detected, see the module.
        unsafe { Avx2Float(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    fn raw(line: &Line) -> Self::Raw {
        let at = line.as_ptr().cast::<__m256i>();
        // SAFETY: AVX2 was detected, see the module; 64 bytes are readable, at any alignment.
        unsafe { (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))) }
    }
    #[inline(always)]
    fn singles(raw: Self::Raw) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Float(_mm256_castsi256_ps(raw.0), _mm256_castsi256_ps(raw.1)) }
    }
    #[inline(always)]
    fn pairs(raw: Self::Raw) -> [Self; 2] {
        // SAFETY: AVX2 was detected, see the module.
        unsafe {
            let upper = _mm256_set1_epi32(-65_536);
            let even = (_mm256_slli_epi32(raw.0, 16), _mm256_slli_epi32(raw.1, 16));
            let odd = (_mm256_and_si256(raw.0, upper), _mm256_and_si256(raw.1, upper));
            [Self::singles(even), Self::singles(odd)]
        }
    }
    #[inline(always)]
    fn halves(raw: Self::Raw) -> [Self; 2] {
        // SAFETY: AVX2 and F16C were detected, see the module.
        unsafe {
            let low = [_mm256_castsi256_si128(raw.0), _mm256_castsi256_si128(raw.1)];
            let high = [_mm256_extracti128_si256(raw.0, 1), _mm256_extracti128_si256(raw.1, 1)];
            [
                Avx2Float(_mm256_cvtph_ps(low[0]), _mm256_cvtph_ps(high[0])),
                Avx2Float(_mm256_cvtph_ps(low[1]), _mm256_cvtph_ps(high[1])),
            ]
        }
    }
    #[inline(always)]
    fn add_pairs(self, raw: Self::Raw, inputs: [u16; 2]) -> Self {
        let [even, odd] = Self::pairs(raw);
        self.add_product(odd, Self::splat(widen(inputs[1]))).add_product(even, Self::splat(widen(inputs[0])))
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Self {
        // SAFETY: AVX2 was detected, see the module; 16 floats are readable.
        unsafe { Avx2Float(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16]) {
        // SAFETY: AVX2 was detected, see the module; 16 floats are writable.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), self.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), self.1);
        }
    }
    #[inline(always)]
    fn prefetch(line: *const Line) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    fn tile<F: Format>(args: &mut FloatTile<F::Input>, rows: usize, panels: usize) {
        match panels {
            1 => tiles!(Self, F, args, rows, 1; 1 2 3 4 5 | 6),
            2 => tile::<Self, F, 1, 2>(args),
            3 => tile::<Self, F, 1, 3>(args),
            _ => tile::<Self, F, 1, 4>(args),
        }
    }
}

/// Lanes in one 512-bit register; with `BF16`, on a CPU that multiplies bfloat16.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512Float<const BF16: bool>(__m512);

impl<const BF16: bool> FloatLanes for Avx512Float<BF16> {
    type Raw = __m512i;

    const PANELS: usize = 2;
    const ROW_PANELS: usize = 4;

    #[inline(always)]
    fn most_rows(_: usize) -> usize {
        12
    }
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { Avx512Float(_mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { Avx512Float(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { Avx512Float(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    fn raw(line: &Line) -> __m512i {
        // SAFETY: AVX-512 was detected, see the module; 64 bytes are readable, at any alignment.
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }
    #[inline(always)]
    fn singles(raw: __m512i) -> Self {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe { Avx512Float(_mm512_castsi512_ps(raw)) }
    }
    #[inline(always)]
    fn pairs(raw: __m512i) -> [Self; 2] {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe {
            let even = _mm512_slli_epi32::<16>(raw);
            let odd = _mm512_and_si512(raw, _mm512_set1_epi32(-65_536));
            [Self::singles(even), Self::singles(odd)]
        }
    }
    #[inline(always)]
    fn halves(raw: __m512i) -> [Self; 2] {
        // SAFETY: AVX-512 was detected, see the module.
        unsafe {
            let first = _mm512_cvtph_ps(_mm512_castsi512_si256(raw));
            let second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(raw));
            [Avx512Float(first), Avx512Float(second)]
        }
    }
    #[inline(always)]
    fn add_pairs(self, raw: __m512i, inputs: [u16; 2]) -> Self {
        let both = u32::from(inputs[0]) | u32::from(inputs[1]) << 16;
        if BF16 {
            // SAFETY: AVX512_BF16 was detected, see the module; every bit pattern is valid for both types.
            return unsafe {
                let inputs = _mm512_set1_epi32(both.cast_signed());
                let weights = std::mem::transmute::<__m512i, __m512bh>(raw);
                let inputs = std::mem::transmute::<__m512i, __m512bh>(inputs);
                Avx512Float(_mm512_dpbf16_ps(self.0, weights, inputs))
            };
        }
        let [even, odd] = Self::pairs(raw);
        self.add_product(odd, Self::splat(widen(inputs[1]))).add_product(even, Self::splat(widen(inputs[0])))
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Self {
        // SAFETY: AVX-512 was detected, see the module; 16 floats are readable.
        unsafe { Avx512Float(_mm512_loadu_ps(values.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16]) {
        // SAFETY: AVX-512 was detected, see the module; 16 floats are writable.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn prefetch(line: *const Line) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    fn tile<F: Format>(args: &mut FloatTile<F::Input>, rows: usize, panels: usize) {
        match panels {
            1 => tiles!(Self, F, args, rows, 1; 1 2 3 4 5 6 7 8 9 10 11 | 12),
            2 => tiles!(Self, F, args, rows, 2; 1 2 3 4 5 6 7 8 9 10 11 | 12),
            3 => tile::<Self, F, 1, 3>(args),
            _ => tile::<Self, F, 1, 4>(args),
        }
    }
}
