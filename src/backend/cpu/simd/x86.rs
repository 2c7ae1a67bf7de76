//! AVX2 with FMA, and AVX-512, as [`Simd`]. A value of either type proves the CPU's features: only code compiled for
//! these features creates it.

use std::arch::x86_64::*;

use super::vector::{LANES, LevelKernel, Simd};

/// Proof that the CPU has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2Simd(());

/// Proof that the CPU has AVX-512 F.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512Simd(());

/// Runs a kernel for [`Level::Avx2`](super::super::level::Level::Avx2).
pub(super) fn run_avx2<K: LevelKernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma")]
    fn build<K: LevelKernel>(kernel: K) -> K::Output {
        kernel.run(Avx2Simd(()))
    }
    // SAFETY: levels come from `Level::detect`, which found the features.
    unsafe { build(kernel) }
}

/// Runs a kernel for [`Level::Avx512`](super::super::level::Level::Avx512).
pub(super) fn run_avx512<K: LevelKernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    fn build<K: LevelKernel>(kernel: K) -> K::Output {
        kernel.run(Avx512Simd(()))
    }
    // SAFETY: levels come from `Level::detect`, which found the features.
    unsafe { build(kernel) }
}

/// Calls intrinsics that need only the features.
macro_rules! call {
    ($expression:expr) => {
        // SAFETY: the receiver proves that the CPU has the features; loads and stores use references to whole vectors.
        unsafe { $expression }
    };
}

impl Simd for Avx2Simd {
    /// Vectors of lanes 0..8 and 8..16.
    type V = [__m256; 2];
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        call!([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        call!([_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))])
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        call!({
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        call!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        call!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn where_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        call!([
            _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ])
    }
    #[inline(always)]
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V {
        // Two steps, so that neither power exceeds the range of the exponent.
        let half = self.round(self.mul(n, self.splat(0.5)));
        let rest = self.sub(n, half);
        let [first, second] = call!([
            [power_of_two(half[0]), power_of_two(half[1])],
            [power_of_two(rest[0]), power_of_two(rest[1])],
        ]);
        self.mul(self.mul(v, first), second)
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        call!({
            let eight = _mm256_add_ps(v[0], v[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        call!({
            let eight = _mm256_max_ps(v[0], v[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
}

/// Returns 2ⁿ for whole n of -126..=127, by the bits of its exponent.
#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

impl Simd for Avx512Simd {
    type V = __m512;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        call!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        call!(_mm512_loadu_ps(from.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        call!(_mm512_storeu_ps(to.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        call!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        call!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn where_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        call!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V {
        call!(_mm512_scalef_ps(v, n))
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        call!(_mm512_reduce_add_ps(v))
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        call!(_mm512_reduce_max_ps(v))
    }
}
