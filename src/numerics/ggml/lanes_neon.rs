//! [`Lanes`] in two 128-bit registers of NEON, which every aarch64 machine has: the SAFETY of every block here.

use std::arch::aarch64::*;

use super::lanes::Lanes;

/// Lanes 0 … 3 and 4 … 7.
#[derive(Clone, Copy)]
pub(crate) struct NeonLanes(float32x4_t, float32x4_t);

macro_rules! binary {
    ($($name:ident: $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self) -> Self {
            // SAFETY: NEON is part of aarch64.
            unsafe { NeonLanes($intrinsic(self.0, b.0), $intrinsic(self.1, b.1)) }
        }
    )*};
}

macro_rules! unary {
    ($($name:ident: $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self) -> Self {
            // SAFETY: NEON is part of aarch64.
            unsafe { NeonLanes($intrinsic(self.0), $intrinsic(self.1)) }
        }
    )*};
}

impl Lanes for NeonLanes {
    binary!(add: vaddq_f32, sub: vsubq_f32, mul: vmulq_f32, div: vdivq_f32);
    unary!(sqrt: vsqrtq_f32, round: vrndnq_f32);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: NEON is part of aarch64.
        unsafe { NeonLanes(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }
    #[inline(always)]
    fn load(values: &[f32; 8]) -> Self {
        // SAFETY: NEON is part of aarch64; 8 floats are readable.
        unsafe { NeonLanes(vld1q_f32(values.as_ptr()), vld1q_f32(values.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn store(self) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: NEON is part of aarch64; 8 floats are writable.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), self.0);
            vst1q_f32(out.as_mut_ptr().add(4), self.1);
        }
        out
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.if_less(b, self, b)
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        b.if_less(self, self, b)
    }
    #[inline(always)]
    fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: NEON is part of aarch64.
        unsafe {
            let less = (vcltq_f32(self.0, b.0), vcltq_f32(self.1, b.1));
            NeonLanes(vbslq_f32(less.0, yes.0, no.0), vbslq_f32(less.1, yes.1, no.1))
        }
    }
}
