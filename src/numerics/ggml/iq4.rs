//! The 16 unevenly spaced levels of IQ4_NL and IQ4_XS, denser around zero as weights are, and the search for a scale.

use super::lanes::{self, BLOCK, Block};
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

/// Candidates for the reciprocal at each end of the levels.
const STEPS: u8 = 15;

/// The scale that minimizes Σ weight·(x − d·level)² over candidates for its reciprocal, which put the largest magnitude
/// within 7 of −127 (llama.cpp's candidates, `quantize_row_iq4_nl_impl` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) or of
/// 113. Each fixes the levels, and they the best d. 0 where there is nothing to scale.
#[inline(always)]
pub fn search(x: &Block<f32>, weights: &Block<f32>) -> f32 {
    let max = lanes::signed_absmax(x);
    if max.abs() < TINY {
        return 0.0;
    }
    let [low, low_gain] = candidates(x, weights, max, 120.0);
    let [high, high_gain] = candidates(x, weights, -max, 106.0);
    let d = if high_gain > low_gain { high } else { low };
    if d.is_finite() { d } else { max / f32::from(LEVELS[0]) }
}

/// The best of the candidates `unit`/first, `unit`/(first + 1), …: [scale, explained sum of squares].
///
/// The levels' boundaries lie so far apart that no value passes two on the way (115.5/93.5 > 134/120), so that one pass
/// finds what each value is rounded to at first and where along the way that changes, and to what.
#[inline(always)]
fn candidates(x: &Block<f32>, weights: &Block<f32>, unit: f32, first: f32) -> [f32; 2] {
    let relative = lanes::block(|j| x[j] / unit);
    let [level, next, boundary] = steps(&relative, first);
    let at = lanes::block(|j| boundary[j] / relative[j].abs());
    let moment = lanes::block(|j| weights[j] * (next[j] - level[j]) * relative[j]);
    let square = lanes::block(|j| weights[j] * (next[j] * next[j] - level[j] * level[j]));
    let first_moment = lanes::sum(|j| weights[j] * level[j] * relative[j]);
    let first_square = lanes::sum(|j| weights[j] * level[j] * level[j]);
    let mut best = [0.0; 2];
    for i in 0..STEPS {
        let inverse = first + f32::from(i);
        let passed = |change: &Block<f32>| lanes::sum(|j| if inverse >= at[j] { change[j] } else { 0.0 });
        let (moment, square) = (first_moment + passed(&moment), first_square + passed(&square));
        let gain = moment * moment / square;
        if gain > best[1] {
            best = [-unit * (moment / square), gain];
        }
    }
    best
}

/// [level, the level after it, the boundary between them] of each value, scaled by `first`.
#[inline(always)]
fn steps(x: &Block<f32>, first: f32) -> [Block<f32>; 3] {
    let magnitude = lanes::block(|j| x[j].abs() * first);
    let mut level = [SIDES[0].level[0]; BLOCK];
    let (mut next, mut boundary) = ([0.0; BLOCK], [f32::INFINITY; BLOCK]);
    for i in 0..8 {
        let side = |j: usize, [low, high]: [f32; 2]| if x[j] >= 0.0 { low } else { high };
        for j in 0..BLOCK {
            let at = side(j, [SIDES[0].at[i], SIDES[1].at[i]]);
            let after = side(j, [SIDES[0].level[i + 1], SIDES[1].level[i + 1]]);
            let passed = magnitude[j] >= at;
            level[j] = if passed { after } else { level[j] };
            let ahead = !passed && at < boundary[j];
            next[j] = if ahead { after } else { next[j] };
            boundary[j] = if ahead { at } else { boundary[j] };
        }
    }
    [level, next, boundary]
}
