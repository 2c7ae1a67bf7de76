//! The weight of each element's error, and the transposition that puts eight sub-blocks side by side.
//!
//! The weights follow llama.cpp's (`quantize_row_*_ref` without an importance matrix, `quantize_row_*_impl` with one), so
//! that large values, which move the outputs most, are kept best. Two additions improve the plain error too, and hardly change
//! the weighted one: [`Alone::Square`] has a floor, and [`EVEN_SHARE`] of the importance is uniform.

use super::half_scale::Unit;
use super::super_block::SUPER_BLOCK;
use crate::numerics::ggml::lanes::Lanes;

/// The part of importance that every column gets, of a mean of 1: columns that are small in the calibration data still count.
const EVEN_SHARE: f32 = 0.06;

/// Super-blocks whose largest magnitude is at most this become zero: the smallest f16 scale is 6·10⁻⁸.
const NEGLIGIBLE: f32 = 1e-12;

/// The weight of an element where no importance is given.
#[derive(Clone, Copy)]
pub(crate) enum Alone {
    /// rms of the sub-block + |x|.
    RmsPlusAbs,
    /// x² + this · mean square of the super-block.
    Square(f32),
}

/// The weights of a type.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// Without importance.
    pub alone: Alone,
    /// With importance q: q·√(this · mean square of the super-block + x²), or q itself.
    pub spread: Option<f32>,
}

/// A super-block scaled by a power of two until its largest magnitude is in [1, 2).
pub(crate) struct Scaled {
    /// The values.
    pub x: [f32; SUPER_BLOCK],
    /// The divisor.
    pub unit: Unit,
    mean_square: f32,
}

impl Scaled {
    /// Scales the values; `None` if all of them are negligible.
    #[inline(always)]
    pub(crate) fn new(x: &[f32]) -> Option<Scaled> {
        let largest = eight_folds(x, |most, v| if v.abs() > most { v.abs() } else { most })
            .into_iter()
            .fold(0.0, f32::max);
        if largest <= NEGLIGIBLE {
            return None;
        }
        const EXPONENT: u32 = 0x7f80_0000;
        let unit = f32::from_bits(largest.to_bits() & EXPONENT);
        let mut scaled = [0.0; SUPER_BLOCK];
        for (to, from) in scaled.iter_mut().zip(x) {
            *to = from * (1.0 / unit);
        }
        Some(Scaled { mean_square: mean_square(&scaled), x: scaled, unit: Unit(unit) })
    }
}

#[inline(always)]
fn mean_square(x: &[f32; SUPER_BLOCK]) -> f32 {
    eight_folds(x, |sum, v| sum + v * v).iter().sum::<f32>() / SUPER_BLOCK as f32
}

/// Folds eight interleaved parts from 0: one order for every instruction set.
#[inline(always)]
fn eight_folds(values: &[f32], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    let mut folds = [0.0; 8];
    for eight in values.chunks_exact(8) {
        for (fold, &v) in folds.iter_mut().zip(eight) {
            *fold = f(*fold, v);
        }
    }
    folds
}

/// Returns importance with a mean of 1, plus its even share; `None` if all of it is zero (or its sum is not finite).
#[inline(always)]
fn evened(importance: &[f32]) -> Option<[f32; SUPER_BLOCK]> {
    let sum = eight_folds(importance, |sum, q| sum + q).iter().sum::<f32>();
    if !(sum > 0.0 && sum < f32::INFINITY) {
        return None;
    }
    let to_mean = SUPER_BLOCK as f32 / sum;
    let mut out = [0.0; SUPER_BLOCK];
    for (to, q) in out.iter_mut().zip(importance) {
        *to = q * to_mean + EVEN_SHARE;
    }
    Some(out)
}

/// Eight sub-blocks of E elements: lane j of entry i is element i of sub-block j.
#[derive(Clone, Copy)]
pub(crate) struct SubBlocks<L, const E: usize> {
    /// Values.
    pub x: [L; E],
    /// Weights.
    pub w: [L; E],
    /// Weight · value.
    pub wx: [L; E],
    /// Σ weights.
    pub sum_w: L,
    /// Σ weight · value.
    pub sum_wx: L,
}

impl<L: Lanes, const E: usize> SubBlocks<L, E> {
    #[inline(always)]
    fn new(x: [L; E], w: [L; E]) -> Self {
        let zero = L::splat(0.0);
        let mut sub = SubBlocks { x, w, wx: x, sum_w: zero, sum_wx: zero };
        for (wx, w) in sub.wx.iter_mut().zip(&w) {
            *wx = wx.mul(*w);
            sub.sum_w = sub.sum_w.add(*w);
            sub.sum_wx = sub.sum_wx.add(*wx);
        }
        sub
    }
}

/// Returns the sub-blocks of a super-block, eight to each of the G entries: G·8·E values.
#[inline(always)]
pub(crate) fn sub_blocks<L: Lanes, const E: usize, const G: usize>(
    block: &Scaled,
    importance: Option<&[f32]>,
    rule: Rule,
) -> [SubBlocks<L, E>; G] {
    let importance = match importance {
        Some(q) => evened(q),
        None => None,
    };
    let zero = [L::splat(0.0); E];
    let mut subs = [SubBlocks { x: zero, w: zero, wx: zero, sum_w: zero[0], sum_wx: zero[0] }; G];
    for (g, sub) in subs.iter_mut().enumerate() {
        let x = transpose(&block.x[g * 8 * E..]);
        let w = match &importance {
            Some(q) => weights_given(&x, transpose(&q[g * 8 * E..]), block.mean_square, rule.spread),
            None => weights_alone(&x, block.mean_square, rule.alone),
        };
        *sub = SubBlocks::new(x, w);
    }
    subs
}

#[inline(always)]
fn transpose<L: Lanes, const E: usize>(values: &[f32]) -> [L; E] {
    let mut out = [L::splat(0.0); E];
    for (i, out) in out.iter_mut().enumerate() {
        let mut lanes = [0.0; 8];
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane = values[E * j + i];
        }
        *out = L::load(&lanes);
    }
    out
}

#[inline(always)]
fn weights_given<L: Lanes, const E: usize>(
    x: &[L; E],
    q: [L; E],
    square: f32,
    spread: Option<f32>,
) -> [L; E] {
    let Some(spread) = spread else { return q };
    let floor = L::splat(spread * square);
    let mut w = q;
    for (w, x) in w.iter_mut().zip(x) {
        *w = w.mul(x.mul(*x).add(floor).sqrt());
    }
    w
}

#[inline(always)]
fn weights_alone<L: Lanes, const E: usize>(x: &[L; E], square: f32, alone: Alone) -> [L; E] {
    let mut w = *x;
    match alone {
        Alone::RmsPlusAbs => {
            let rms = rms(x);
            for w in &mut w {
                *w = w.abs().add(rms);
            }
        }
        Alone::Square(floor) => {
            let floor = L::splat(floor * square);
            for w in &mut w {
                *w = w.mul(*w).add(floor);
            }
        }
    }
    w
}

#[inline(always)]
fn rms<L: Lanes, const E: usize>(x: &[L; E]) -> L {
    let mut sum = L::splat(0.0);
    for x in x {
        sum = sum.add(x.mul(*x));
    }
    sum.mul(L::splat(1.0 / E as f32)).sqrt()
}
