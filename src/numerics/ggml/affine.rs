//! A scale and a minimum per block: w = d·code + m. What Q4_1 and Q5_1 share.

use half::f16;

use super::lanes::{self, BLOCK};

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
    pub fn of(x: &[f32; BLOCK], weights: Option<[f32; BLOCK]>, last: u8) -> Line {
        match weights.and_then(|weights| search(x, &weights, f32::from(last))) {
            Some(line) => Line::rounded(line),
            None => Line::spanning(x, last),
        }
    }

    /// From the smallest to the largest value; as in llama.cpp, codes are those of the unrounded scale and minimum.
    #[inline(always)]
    fn spanning(x: &[f32; BLOCK], last: u8) -> Line {
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
    pub fn codes(&self, x: &[f32; BLOCK], last: u8) -> [u8; BLOCK] {
        lanes::codes(x, self.base, self.inverse, 0.5, last)
    }
}

/// The [d, m] that minimize Σ weight·(x − d·code − m)² over 37 candidates for the reciprocal of d, those of
/// `make_qkx3_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>: each
/// fixes the codes, and they the regression line. Here m may be positive.
///
/// None where all weights are zero, or all values the same, or their range overflows.
#[inline(always)]
fn search(x: &[f32; BLOCK], weights: &[f32; BLOCK], last: f32) -> Option<[f32; 2]> {
    let [low, high] = lanes::extent(x);
    let range = high - low;
    let relative = x.map(|v| (v - low) / range);
    let total = lanes::sum(weights);
    let mean = lanes::sum(&std::array::from_fn(|j| weights[j] * relative[j])) / total;
    let mut best = None;
    let mut best_gain = 0.0;
    for step in -18i8..=18 {
        let [slope, center, gain] = regression(&relative, weights, total, mean, last, 0.05 * f32::from(step));
        if gain > best_gain {
            best_gain = gain;
            best = Some([range * slope, low + range * (mean - slope * center)]);
        }
    }
    best.filter(|line| line.iter().all(|v| v.is_finite()))
}

/// [slope, mean code, explained sum of squares] of the regression of `x` on the codes that `last + offset` gives.
#[inline(always)]
fn regression(
    x: &[f32; BLOCK],
    weights: &[f32; BLOCK],
    total: f32,
    mean: f32,
    last: f32,
    offset: f32,
) -> [f32; 3] {
    let codes = x.map(|v| lanes::clamp(lanes::round(v * (last + offset)), 0.0, last));
    let weighted: [f32; BLOCK] = std::array::from_fn(|j| weights[j] * codes[j]);
    let center = lanes::sum(&weighted) / total;
    let square = lanes::sum(&std::array::from_fn(|j| weighted[j] * (codes[j] - center)));
    let moment = lanes::sum(&std::array::from_fn(|j| weighted[j] * (x[j] - mean)));
    let slope = moment / square;
    [slope, center, slope * moment]
}
