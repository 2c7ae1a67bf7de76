//! [`Lanes`] in one 256-bit register.
//!
//! Values of [`Avx2Lanes`] live only inside functions entered after a check for AVX2: the SAFETY of every block here.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// A 256-bit register of f32.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Lanes(__m256);

macro_rules! binary {
    ($($name:ident: $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self) -> Self {
            // SAFETY: AVX2 was detected, see the module.
            unsafe { Avx2Lanes($intrinsic(self.0, b.0)) }
        }
    )*};
}

impl Lanes for Avx2Lanes {
    binary!(add: _mm256_add_ps, sub: _mm256_sub_ps, mul: _mm256_mul_ps, div: _mm256_div_ps,
        min: _mm256_min_ps, max: _mm256_max_ps);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Lanes(_mm256_set1_ps(value)) }
    }
    #[inline(always)]
    fn load(values: &[f32; 8]) -> Self {
        // SAFETY: AVX2 was detected, see the module; 8 floats are readable.
        unsafe { Avx2Lanes(_mm256_loadu_ps(values.as_ptr())) }
    }
    #[inline(always)]
    fn store(self) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: AVX2 was detected, see the module; 8 floats are writable.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Lanes(_mm256_sqrt_ps(self.0)) }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Lanes(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: AVX2 was detected, see the module.
        unsafe { Avx2Lanes(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0))) }
    }
}
