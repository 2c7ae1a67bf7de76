//! The 16 unevenly spaced levels of IQ4_NL and IQ4_XS, denser around zero as weights are, and the search for a scale.

use super::best::Best;
use super::block::{self, BLOCK, PerWeight};
use super::lanes::Lanes;
use super::weighing::Weighing;

/// The values of the codes, before scaling. `kvalues_iq4nl` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
pub(crate) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Blocks whose values are all smaller become zeros: their scales are far below what f16 holds.
const TINY: f32 = 1e-15;

/// Returns the codes of the levels nearest to x·inverse; half-way between two, the upper one.
#[inline(always)]
pub(crate) fn codes(x: &PerWeight<f32>, inverse: f32) -> PerWeight<u8> {
    block::each(|j| {
        let twice = 2.0 * (x[j] * inverse);
        let above = |i: usize| u32::from(twice >= f32::from(i16::from(LEVELS[i]) + i16::from(LEVELS[i + 1])));
        (0..15).map(above).sum::<u32>() as u8
    })
}

/// Returns the level of a code, in f32.
#[inline(always)]
pub(crate) fn level(code: u8) -> f32 {
    f32::from(LEVELS[usize::from(code & 15)])
}

/// Returns the level of a code, plus 128.
#[inline(always)]
pub(crate) fn shifted_level(code: u8) -> u8 {
    LEVELS[usize::from(code & 15)].cast_unsigned() ^ 0x80
}

/// Packs the levels nearest to the given ones, which are plus 128.
pub(crate) fn put_codes(nibbles: &mut [u8], levels: &[u8]) {
    let nearest = |&shifted: &u8| {
        let distance = |code: &u8| shifted_level(*code).abs_diff(shifted);
        (0..16).min_by_key(distance).unwrap_or(0)
    };
    let (blocks, _) = levels.as_chunks::<BLOCK>();
    for (nibbles, levels) in nibbles.as_chunks_mut().0.iter_mut().zip(blocks) {
        *nibbles = block::pack_nibbles(&block::each(|j| nearest(&levels[j])));
    }
}

/// Returns the weights of the errors of a block: those of `weighing`, or x² without one.
#[inline(always)]
pub(crate) fn weights(x: &PerWeight<f32>, weighing: Option<&Weighing>, index: usize) -> PerWeight<f32> {
    if let Some(weighing) = weighing {
        return weighing.block(index, x);
    }
    let max = block::absmax(x);
    block::each(|j| (x[j] / max) * (x[j] / max))
}

/// The levels that a magnitude passes as it grows from zero: `level[i]` up to `at[i]`, then the next.
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

/// The distances of the candidates for the reciprocal from the first.
const OFFSETS: [[f32; 8]; 2] =
    [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]];

/// Returns the scale that minimizes Σ weight·(x − d·level)² over candidates for its reciprocal, which put the largest magnitude
/// within 8 of −127 (llama.cpp's candidates, `quantize_row_iq4_nl_impl` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) or of
/// 113. Each fixes the levels, and they the best d. 0 if all values are too small.
#[inline(always)]
pub(crate) fn search<L: Lanes>(x: &PerWeight<f32>, weights: &PerWeight<f32>) -> f32 {
    let max = block::signed_absmax(x);
    if max.abs() < TINY {
        return 0.0;
    }
    let mut best = Best::new();
    for (unit, first) in [(-max, 106.0), (max, 120.0)] {
        let path = Path::new::<L>(&block::each(|j| x[j] / unit), weights, first);
        for offsets in &OFFSETS {
            let [moment, square] = path.projection(L::splat(first).add(L::load(offsets)));
            let d = moment.div(square);
            best.offer(d.mul(moment), [d.mul(L::splat(-unit))]);
        }
    }
    best.into_fit().map(|[d]| d).filter(|d| d.is_finite()).unwrap_or(max / f32::from(LEVELS[0]))
}

/// The changes of the rounded values as the reciprocal of the scale grows by an eighth: the point at which each value passes
/// to its next level, and the terms that this adds to the sums. No value passes two levels: their boundaries are further
/// apart than that (115.5/93.5 > 121/106 > 135/120).
struct Path {
    at: PerWeight<f32>,
    moment: PerWeight<f32>,
    square: PerWeight<f32>,
    /// The sums at the start.
    start: [f32; 2],
}

impl Path {
    /// Creates the path from the reciprocal `first` on.
    #[inline(always)]
    fn new<L: Lanes>(x: &PerWeight<f32>, weights: &PerWeight<f32>, first: f32) -> Path {
        let mut path = Path { at: [0.0; BLOCK], moment: [0.0; BLOCK], square: [0.0; BLOCK], start: [0.0; 2] };
        let mut start = [L::splat(0.0); 2];
        for j in (0..BLOCK).step_by(8) {
            let load =
                |from: &PerWeight<f32>| L::load(from[j..].first_chunk().expect("blocks hold whole lanes"));
            let (x, weight) = (load(x), load(weights));
            let [level, next, boundary] = step(x, L::splat(first));
            let (squared, next_squared) = (level.mul(level), next.mul(next));
            start[0] = start[0].add(weight.mul(level).mul(x));
            start[1] = start[1].add(weight.mul(squared));
            path.at[j..j + 8].copy_from_slice(&boundary.div(x.abs()).store());
            path.moment[j..j + 8].copy_from_slice(&weight.mul(next.sub(level)).mul(x).store());
            path.square[j..j + 8].copy_from_slice(&weight.mul(next_squared.sub(squared)).store());
        }
        path.start = start.map(L::sum);
        path
    }

    /// Returns [Σ weight·x·level, Σ weight·level²] for the reciprocal `inverse`.
    #[inline(always)]
    fn projection<L: Lanes>(&self, inverse: L) -> [L; 2] {
        let zero = L::splat(0.0);
        let [mut moment, mut square] = self.start.map(L::splat);
        for j in 0..BLOCK {
            let at = L::splat(self.at[j]);
            moment = moment.add(inverse.if_less(at, zero, L::splat(self.moment[j])));
            square = square.add(inverse.if_less(at, zero, L::splat(self.square[j])));
        }
        [moment, square]
    }
}

/// Returns [level, the level after it, the boundary between them] of each value, scaled by `first`.
#[inline(always)]
fn step<L: Lanes>(x: L, first: L) -> [L; 3] {
    let (zero, magnitude) = (L::splat(0.0), x.abs().mul(first));
    let side = |low: f32, high: f32| x.if_less(zero, L::splat(high), L::splat(low));
    let [low, high] = &SIDES;
    let mut after = side(low.level[8], high.level[8]);
    let [mut level, mut next, mut boundary] = [after, zero, L::splat(f32::INFINITY)];
    for i in (0..8).rev() {
        let (at, before) = (side(low.at[i], high.at[i]), side(low.level[i], high.level[i]));
        level = magnitude.if_less(at, before, level);
        next = magnitude.if_less(at, after, next);
        boundary = magnitude.if_less(at, at, boundary);
        after = before;
    }
    [level, next, boundary]
}
