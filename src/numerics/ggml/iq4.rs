//! The 16 unevenly spaced levels of IQ4_NL and IQ4_XS, denser around zero as weights are, and the search for a scale.

use super::lanes::{self, BLOCK, Best, Block, LANES};
use super::weighing::Weighing;

/// What a code stands for, before scaling. `kvalues_iq4nl` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h#L1107-L1110>.
pub const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Blocks whose values are all smaller become zeros: their scales are far below what f16 holds.
const TINY: f32 = 1e-15;

/// The codes of the levels nearest to x·inverse; half-way between two, the upper one.
#[inline(always)]
pub fn codes(x: &Block<f32>, inverse: f32) -> Block<u8> {
    lanes::block(|j| {
        let twice = 2.0 * (x[j] * inverse);
        let above = |i: usize| u32::from(twice >= f32::from(i16::from(LEVELS[i]) + i16::from(LEVELS[i + 1])));
        (0..15).map(above).sum::<u32>() as u8
    })
}

/// Code → level, in f32.
#[inline(always)]
pub fn level(code: u8) -> f32 {
    f32::from(LEVELS[usize::from(code & 15)])
}

/// What the errors of a block count: as `weighing` says, without one as x².
#[inline(always)]
pub fn weights(x: &Block<f32>, weighing: Option<&Weighing>, index: usize) -> Block<f32> {
    if let Some(weighing) = weighing {
        return weighing.block(index, x);
    }
    let max = lanes::absmax(x);
    lanes::block(|j| (x[j] / max) * (x[j] / max))
}

/// What a magnitude passes as it grows from zero: `level[i]` up to `at[i]`, then the next.
struct Side {
    level: [f32; 9],
    at: [f32; 8],
}

/// The negative levels, then the positive ones, all negated: the values of the first side, which goes further, are
/// positive. Both begin with the one level closest to zero.
const SIDES: [Side; 2] = {
    let mut sides = [const { Side { level: [0.0; 9], at: [f32::INFINITY; 8] } }; 2];
    let mut i = 0;
    while i < 8 {
        sides[0].level[i] = -(LEVELS[8 - i] as f32);
        sides[1].level[i] = -(LEVELS[8 + i] as f32);
        sides[0].at[i] = -0.5 * (LEVELS[8 - i] as f32 + LEVELS[7 - i] as f32);
        if i < 7 {
            sides[1].at[i] = 0.5 * (LEVELS[8 + i] as f32 + LEVELS[9 + i] as f32);
        }
        i += 1;
    }
    sides[0].level[8] = -(LEVELS[0] as f32);
    sides
};

/// How far the candidates for the reciprocal are from the first.
const CANDIDATES: [[f32; LANES]; 2] =
    [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]];

/// The scale that minimizes Σ weight·(x − d·level)² over candidates for its reciprocal, which put the largest magnitude
/// within 8 of −127 (llama.cpp's candidates, `quantize_row_iq4_nl_impl` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) or of
/// 113. Each fixes the levels, and they the best d. 0 where there is nothing to scale.
#[inline(always)]
pub fn search(x: &Block<f32>, weights: &Block<f32>) -> f32 {
    let max = lanes::signed_absmax(x);
    if max.abs() < TINY {
        return 0.0;
    }
    let relative = lanes::block(|j| x[j] / max);
    let mut best = Best::new();
    offer_candidates(&mut best, &relative, weights, -max, 120.0);
    offer_candidates(&mut best, &lanes::block(|j| -relative[j]), weights, max, 106.0);
    best.fit.filter(|d| d.is_finite()).unwrap_or(max / f32::from(LEVELS[0]))
}

/// Offers the scales of the reciprocals first, first + 1, … (in units of `unit`, the levels being negated).
///
/// The levels' boundaries lie so far apart that no value passes two on the way (115.5/93.5 > 135/120), so that one pass
/// finds what each value is rounded to at first and where along the way that changes, and to what.
#[inline(always)]
fn offer_candidates(best: &mut Best<f32>, x: &Block<f32>, weights: &Block<f32>, unit: f32, first: f32) {
    let [level, next, boundary] = steps(x, first);
    let at = lanes::block(|j| boundary[j] / x[j].abs());
    let moment = lanes::block(|j| weights[j] * (next[j] - level[j]) * x[j]);
    let square = lanes::block(|j| weights[j] * (next[j] * next[j] - level[j] * level[j]));
    let first_moment = lanes::sum(|j| weights[j] * level[j] * x[j]);
    let first_square = lanes::sum(|j| weights[j] * level[j] * level[j]);
    for offsets in CANDIDATES {
        let (mut moments, mut squares) = ([first_moment; LANES], [first_square; LANES]);
        for ((&at, &moment), &square) in at.iter().zip(&moment).zip(&square) {
            for c in 0..LANES {
                let passed = first + offsets[c] >= at;
                moments[c] += lanes::select(passed, moment, 0.0);
                squares[c] += lanes::select(passed, square, 0.0);
            }
        }
        for c in 0..LANES {
            let d = moments[c] / squares[c];
            best.offer(d * moments[c], || unit * d);
        }
    }
}

/// [level, the level after it, the boundary between them] of each value, scaled by `first`.
#[inline(always)]
fn steps(x: &Block<f32>, first: f32) -> [Block<f32>; 3] {
    let magnitude = lanes::block(|j| x[j].abs() * first);
    let mut level = [SIDES[0].level[0]; BLOCK];
    let (mut next, mut boundary) = ([0.0; BLOCK], [f32::INFINITY; BLOCK]);
    for i in 0..8 {
        for j in 0..BLOCK {
            let positive = x[j] >= 0.0;
            let at = lanes::select(positive, SIDES[0].at[i], SIDES[1].at[i]);
            let after = lanes::select(positive, SIDES[0].level[i + 1], SIDES[1].level[i + 1]);
            let passed = magnitude[j] >= at;
            level[j] = lanes::select(passed, after, level[j]);
            let ahead = !passed & (at < boundary[j]);
            next[j] = lanes::select(ahead, after, next[j]);
            boundary[j] = lanes::select(ahead, at, boundary[j]);
        }
    }
    [level, next, boundary]
}
