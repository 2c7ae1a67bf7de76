//! Eight f32 side by side, one sub-block in each: the searches are written once over [`Lanes`].
//!
//! Lanes are independent and no operation is fused, so every implementation gives the same bits, and [`PlainLanes`] is the twin
//! that the others are tested against.

/// Eight f32 and the arithmetic the searches need.
pub(crate) trait Lanes: Copy {
    /// Puts one value in every lane.
    fn splat(value: f32) -> Self;
    /// Loads `values[i]` into lane i.
    fn load(values: &[f32; 8]) -> Self;
    /// Returns the lanes in order.
    fn store(self) -> [f32; 8];
    /// Returns self + b.
    fn add(self, b: Self) -> Self;
    /// Returns self − b.
    fn sub(self, b: Self) -> Self;
    /// Returns self · b.
    fn mul(self, b: Self) -> Self;
    /// Returns self / b.
    fn div(self, b: Self) -> Self;
    /// Returns √self.
    fn sqrt(self) -> Self;
    /// Rounds to the nearest integer, ties to even.
    fn round(self) -> Self;
    /// Returns self if self < b, else b.
    fn min(self, b: Self) -> Self;
    /// Returns self if self > b, else b.
    fn max(self, b: Self) -> Self;
    /// Returns `yes` if self < b, else `no`.
    fn if_less(self, b: Self, yes: Self, no: Self) -> Self;

    /// Returns |self|.
    #[inline(always)]
    fn abs(self) -> Self {
        self.max(Self::splat(0.0).sub(self))
    }

    /// Returns 1 / self; 0 if |self| is too small.
    #[inline(always)]
    fn inverse(self) -> Self {
        let zero = Self::splat(0.0);
        Self::splat(1e-37).if_less(self.abs(), Self::splat(1.0).div(self), zero)
    }

    /// Returns the sum of the lanes, in one fixed order.
    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.store();
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    /// Returns the largest lane; any of them if all are NaN.
    #[inline(always)]
    fn largest(self) -> f32 {
        self.store().into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// The portable lanes.
#[derive(Clone, Copy)]
#[cfg_attr(all(target_arch = "aarch64", not(test)), allow(dead_code))]
pub(crate) struct PlainLanes([f32; 8]);

#[cfg_attr(all(target_arch = "aarch64", not(test)), allow(dead_code))]
impl PlainLanes {
    #[inline(always)]
    fn zip(self, b: PlainLanes, op: impl Fn(f32, f32) -> f32) -> PlainLanes {
        PlainLanes(std::array::from_fn(|i| op(self.0[i], b.0[i])))
    }
}

impl Lanes for PlainLanes {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        PlainLanes([value; 8])
    }
    #[inline(always)]
    fn load(values: &[f32; 8]) -> Self {
        PlainLanes(*values)
    }
    #[inline(always)]
    fn store(self) -> [f32; 8] {
        self.0
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        PlainLanes(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn round(self) -> Self {
        PlainLanes(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.zip(b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        PlainLanes(std::array::from_fn(|i| if self.0[i] < b.0[i] { yes.0[i] } else { no.0[i] }))
    }
}

/// Returns the code 0 … top nearest to v, ties to even.
///
/// Adding 1.5·2²³ leaves the integer in the low bits of the sum; plain arithmetic, which vectorizes everywhere.
#[inline(always)]
pub(crate) fn code(v: f32, top: f32) -> u8 {
    const ROUNDER: f32 = 12_582_912.0;
    let v = if v > 0.0 { v } else { 0.0 };
    let v = if v < top { v } else { top };
    (v + ROUNDER).to_bits() as u8
}
