//! A scale and a minimum per block: w = d·code + m. What Q4_1 and Q5_1 share.

use half::f16;

use super::lanes::{self, Best, Block, LANES};

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
    pub fn of(x: &Block<f32>, weights: Option<Block<f32>>, last: u8) -> Line {
        match weights.and_then(|weights| search(x, &weights, f32::from(last))) {
            Some(line) => Line::rounded(line),
            None => Line::spanning(x, last),
        }
    }

    /// From the smallest to the largest value; as in llama.cpp, codes are those of the unrounded scale and minimum.
    #[inline(always)]
    fn spanning(x: &Block<f32>, last: u8) -> Line {
        let [low, high] = lanes::extent(x);
        let base = lanes::clamp_to_f16(low);
        let d = lanes::clamp_to_f16((high - low) / f32::from(last));
        Line { scale: f16::from_f32(d), minimum: f16::from_f32(base), base, inverse: lanes::reciprocal(d) }
    }

    /// Codes are those of what is stored.
    #[inline(always)]
    fn rounded([d, m]: [f32; 2]) -> Line {
        let [scale, minimum] = [d, m].map(|v| f16::from_f32(lanes::clamp_to_f16(v)));
        Line { scale, minimum, base: minimum.to_f32(), inverse: lanes::reciprocal(scale.to_f32()) }
    }

    /// The codes, 0..=last.
    #[inline(always)]
    pub fn codes(&self, x: &Block<f32>, last: u8) -> Block<u8> {
        lanes::codes(x, self.base, self.inverse, 0.5, last)
    }
}

/// How many codes a candidate goes beyond 0.
const BELOW: [f32; 6] = [-0.5, 0.0, 0.5, 1.0, 2.0, 3.0];

/// How many codes a candidate goes beyond the last.
const ABOVE: [f32; LANES] = [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0];

/// The [d, m] that minimize Σ weight·(x − d·code − m)² over candidates that clip the values at both ends, from not at
/// all to 3 codes each: a candidate fixes the codes, and they the regression line.
///
/// llama.cpp (`make_qkx3_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) tries
/// 37 widths of the range instead, which leaves larger errors. Here m may be positive, too.
///
/// None where all weight lies on one value, or all values are the same, or their range overflows.
#[inline(always)]
fn search(x: &Block<f32>, weights: &Block<f32>, last: f32) -> Option<[f32; 2]> {
    let [low, high] = lanes::extent(x);
    let range = high - low;
    let relative = lanes::block(|j| (x[j] - low) / range);
    let total = lanes::sum(|j| weights[j]);
    let mean = lanes::sum(|j| weights[j] * relative[j]) / total;
    let mut best = Best::new();
    for below in BELOW {
        let inverses = ABOVE.map(|above| last + below + above);
        let [code, square, moment] = sums(&relative, weights, &inverses, below, last);
        for c in 0..LANES {
            let center = code[c] / total;
            let (square, moment) = (square[c] - center * code[c], moment[c] - mean * code[c]);
            let slope = moment / square;
            // Less is rounding error.
            if square > 1e-5 * total {
                best.offer(slope * moment, || [range * slope, low + range * (mean - slope * center)]);
            }
        }
    }
    best.fit.filter(|line| line.iter().all(|v| v.is_finite()))
}

/// Weighted sums of [code, code², code·x] of the codes that each inverse gives, less `below`.
#[inline(always)]
fn sums(
    x: &Block<f32>,
    weights: &Block<f32>,
    inverses: &[f32; LANES],
    below: f32,
    last: f32,
) -> [[f32; LANES]; 3] {
    let [mut sum, mut square, mut moment] = [[0.0; LANES]; 3];
    for (&x, &weight) in x.iter().zip(weights) {
        for c in 0..LANES {
            let code = lanes::clamp(lanes::round(x * inverses[c] - below), 0.0, last);
            sum[c] += weight * code;
            square[c] += weight * code * code;
            moment[c] += weight * code * x;
        }
    }
    [sum, square, moment]
}
