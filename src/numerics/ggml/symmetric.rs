//! One scale per block and no minimum: w = d·l, with l in low..=high. What Q4_0, Q5_0 and Q8_0 share.

use half::f16;

use super::best::Best;
use super::block::{self, Block};
use super::lanes::Lanes;

/// The scale of a block whose codes are l + `levels`, with l in −levels..levels.
pub struct Scale {
    /// As stored.
    pub stored: f16,
    /// What values are multiplied by.
    inverse: f32,
    /// The code of zero.
    zero: f32,
}

impl Scale {
    /// The scale of a block: the search's where there are weights and it finds one.
    #[inline(always)]
    pub fn of<L: Lanes>(x: &Block<f32>, weights: Option<Block<f32>>, levels: u8) -> Scale {
        let levels = f32::from(levels);
        match weights.and_then(|weights| search::<L>(x, &weights, -levels, levels - 1.0)) {
            Some(d) => Scale::rounded(d, levels),
            None => Scale::spanning(x, levels),
        }
    }

    /// The value of the largest magnitude gets the code 0. As in llama.cpp, codes are those of the unrounded scale, and
    /// where its reciprocal overflows (denormals) they are 0: what x86 makes of a conversion that C leaves undefined.
    #[inline(always)]
    fn spanning(x: &Block<f32>, levels: f32) -> Scale {
        let d = block::clamp_to_f16(block::signed_absmax(x) / -levels);
        let inverse = block::reciprocal(d);
        let zero = if inverse == 0.0 && d != 0.0 { 0.0 } else { levels };
        Scale { stored: f16::from_f32(d), inverse, zero }
    }

    /// Codes are those of what is stored.
    #[inline(always)]
    fn rounded(d: f32, levels: f32) -> Scale {
        let stored = f16::from_f32(block::clamp_to_f16(d));
        Scale { stored, inverse: block::reciprocal(stored.to_f32()), zero: levels }
    }

    /// The codes of a block, 0..2·levels.
    #[inline(always)]
    pub fn codes(&self, x: &Block<f32>, levels: u8) -> Block<u8> {
        // The offset is exact: 0.5, 8.5 or 16.5.
        block::codes(x, 0.0, self.inverse, self.zero + 0.5, 2 * levels - 1)
    }
}

/// How far the candidates for the reciprocal are from the ends of the codes: as far as those of `make_qx_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>, which
/// looks around −levels only.
const OFFSETS: [[f32; 8]; 2] =
    [[-0.9, -0.78, -0.66, -0.54, -0.42, -0.3, -0.18, -0.06], [0.06, 0.18, 0.3, 0.42, 0.54, 0.66, 0.78, 0.9]];

/// The scale that minimizes Σ weight·(x − d·l)² over candidates for its reciprocal around low/max and high/max, where
/// max is the value of the largest magnitude: each candidate fixes the codes l, and they the best d.
///
/// None where every weight or every value is zero.
#[inline(always)]
pub fn search<L: Lanes>(x: &Block<f32>, weights: &Block<f32>, low: f32, high: f32) -> Option<f32> {
    let max = block::signed_absmax(x);
    let relative = block::each(|j| x[j] / max);
    let [low, high] = [L::splat(low), L::splat(high)];
    let mut best = Best::new();
    for offsets in &OFFSETS {
        let offsets = L::load(offsets);
        for inverse in [low.sub(offsets), high.add(offsets)] {
            let [moment, square] = projection(&relative, weights, inverse, [low, high]);
            let d = moment.div(square);
            best.offer(d.mul(moment), [d]);
        }
    }
    best.into_fit().map(|[d]| max * d).filter(|d| d.is_finite())
}

/// [Σ weight·x·l, Σ weight·l²] of the codes l that `inverse` gives.
#[inline(always)]
fn projection<L: Lanes>(x: &Block<f32>, weights: &Block<f32>, inverse: L, [low, high]: [L; 2]) -> [L; 2] {
    let [mut moment, mut square] = [L::splat(0.0); 2];
    for (&x, &weight) in x.iter().zip(weights) {
        let (x, weight) = (L::splat(x), L::splat(weight));
        let code = x.mul(inverse).max(low).min(high).round();
        moment = moment.add(weight.mul(code).mul(x));
        square = square.add(weight.mul(code).mul(code));
    }
    [moment, square]
}
