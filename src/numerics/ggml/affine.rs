//! A scale and a minimum per block: w = d·code + m. What Q4_1 and Q5_1 share.

use half::f16;

use super::best::Best;
use super::block::{self, Block};
use super::lanes::Lanes;

/// A block's scale and minimum.
pub struct Line {
    /// The scale, as stored.
    pub scale: f16,
    /// The minimum, as stored.
    pub minimum: f16,
    base: f32,
    inverse: f32,
}

impl Line {
    /// The line of a block: the search's where there are weights and it finds one.
    #[inline(always)]
    pub fn of<L: Lanes>(x: &Block<f32>, weights: Option<Block<f32>>, last: u8) -> Line {
        match weights.and_then(|weights| search::<L>(x, &weights, f32::from(last))) {
            Some(line) => Line::rounded(line),
            None => Line::spanning(x, last),
        }
    }

    /// From the smallest to the largest value; as in llama.cpp, codes are those of the unrounded scale and minimum.
    #[inline(always)]
    fn spanning(x: &Block<f32>, last: u8) -> Line {
        let [low, high] = block::extent(x);
        let base = block::clamp_to_f16(low);
        let d = block::clamp_to_f16((high - low) / f32::from(last));
        Line { scale: f16::from_f32(d), minimum: f16::from_f32(base), base, inverse: block::reciprocal(d) }
    }

    /// Codes are those of what is stored.
    #[inline(always)]
    fn rounded([d, m]: [f32; 2]) -> Line {
        let [scale, minimum] = [d, m].map(|v| f16::from_f32(block::clamp_to_f16(v)));
        Line { scale, minimum, base: minimum.to_f32(), inverse: block::reciprocal(scale.to_f32()) }
    }

    /// The codes, 0..=last.
    #[inline(always)]
    pub fn codes(&self, x: &Block<f32>, last: u8) -> Block<u8> {
        block::codes(x, self.base, self.inverse, 0.5, last)
    }
}

/// How many codes a candidate goes beyond 0.
const BELOW: [f32; 6] = [-0.5, 0.0, 0.5, 1.0, 2.0, 3.0];

/// How many codes a candidate goes beyond the last.
const ABOVE: [f32; 8] = [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0];

/// The [d, m] that minimize Σ weight·(x − d·code − m)² over candidates that clip the values at both ends, from not at
/// all to 3 codes each: a candidate fixes the codes, and they the regression line.
///
/// llama.cpp (`make_qkx3_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) tries
/// 37 widths of the range instead, which leaves larger errors. Here m may be positive, too.
///
/// None where all weight lies on one value, or all values are the same, or their range overflows.
#[inline(always)]
fn search<L: Lanes>(x: &Block<f32>, weights: &Block<f32>, last: f32) -> Option<[f32; 2]> {
    let [low, high] = block::extent(x);
    let range = high - low;
    let relative = block::each(|j| (x[j] - low) / range);
    let (total, mean) = weighted_mean::<L>(&relative, weights);
    let mut best = Best::new();
    for below in BELOW {
        let inverse = L::splat(last + below).add(L::load(&ABOVE));
        let [code, square, moment] = sums(&relative, weights, inverse, L::splat(below), L::splat(last));
        let center = code.div(total);
        let (square, moment) = (square.sub(center.mul(code)), moment.sub(mean.mul(code)));
        let slope = moment.div(square);
        // A smaller square is rounding error.
        let gain = square.if_less(L::splat(1e-5).mul(total), L::splat(0.0), slope.mul(moment));
        best.offer(gain, [slope, mean.sub(slope.mul(center))]);
    }
    let line = best.into_fit().map(|[slope, intercept]| [range * slope, low + range * intercept]);
    line.filter(|line| line.iter().all(|v| v.is_finite()))
}

/// Σ weight, and Σ weight·x over it.
#[inline(always)]
fn weighted_mean<L: Lanes>(x: &Block<f32>, weights: &Block<f32>) -> (L, L) {
    let [mut total, mut sum] = [L::splat(0.0); 2];
    for (x, weight) in x.as_chunks().0.iter().zip(weights.as_chunks().0) {
        total = total.add(L::load(weight));
        sum = sum.add(L::load(weight).mul(L::load(x)));
    }
    (L::splat(total.sum()), L::splat(sum.sum() / total.sum()))
}

/// Weighted sums of [code, code², code·x] of the codes x·inverse − below.
#[inline(always)]
fn sums<L: Lanes>(x: &Block<f32>, weights: &Block<f32>, inverse: L, below: L, last: L) -> [L; 3] {
    let zero = L::splat(0.0);
    let [mut sum, mut square, mut moment] = [zero; 3];
    for (&x, &weight) in x.iter().zip(weights) {
        let x = L::splat(x);
        let code = x.mul(inverse).sub(below).max(zero).min(last).round();
        let weighted = L::splat(weight).mul(code);
        sum = sum.add(weighted);
        square = square.add(weighted.mul(code));
        moment = moment.add(weighted.mul(x));
    }
    [sum, square, moment]
}
