//! The two products of attention, as tiles whose sums stay in registers: queries by keys, and weights by values.

use super::super::key_values::PANEL;
use super::super::simd::{LANES, Simd};

/// Keys of a block.
pub(super) const BLOCK: usize = 64;
/// Panels of a block.
const PANELS: usize = BLOCK / PANEL;

/// Scores of a tile's rows for a block's keys, then their weights.
pub(super) type Scores<const R: usize> = [[f32; BLOCK]; R];

/// Scores of `R` queries for the keys of `panels` panels: Σₖ q[r, k]·key[k].
///
/// `keys` begins at the head's columns in the first panel; panels are `stride` apart.
#[inline(always)]
pub(super) fn score<S: Simd, const R: usize>(
    simd: S,
    queries: [&[f32]; R],
    keys: &[f32],
    stride: usize,
    panels: usize,
    out: &mut Scores<R>,
) {
    if S::MANY_REGISTERS && panels == PANELS {
        return score_panels::<S, R, PANELS>(simd, queries, keys, stride, 0, out);
    }
    for panel in 0..panels {
        score_panels::<S, R, 1>(simd, queries, &keys[panel * stride..], stride, panel, out);
    }
}

#[inline(always)]
fn score_panels<S: Simd, const R: usize, const P: usize>(
    simd: S,
    queries: [&[f32]; R],
    keys: &[f32],
    stride: usize,
    first: usize,
    out: &mut Scores<R>,
) {
    let depth = queries[0].len();
    let queries = queries.map(|query| &query[..depth]);
    let panels: [&[[f32; LANES]]; P] =
        std::array::from_fn(|p| &keys[p * stride..][..depth * PANEL].as_chunks().0[..depth]);
    let mut sums = [[simd.splat(0.0); P]; R];
    for k in 0..depth {
        let columns: [S::V; P] = std::array::from_fn(|p| simd.load(&panels[p][k]));
        for (sums, query) in sums.iter_mut().zip(queries) {
            let query = simd.splat(query[k]);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = simd.mul_add(query, column, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (sum, out) in sums.iter().zip(&mut out.as_chunks_mut().0[first..]) {
            simd.store(*sum, out);
        }
    }
}

/// The values of a block's keys.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    /// From the head's columns of the first key on.
    pub data: &'a [f32],
    /// From key to key.
    pub stride: usize,
}

/// out[r] ← factors[r]·out[r] + Σₖ weights[r, k]·value[k], for the block's first `keys` keys. `out` is [R, width], the width a multiple of [`LANES`].
#[inline(always)]
pub(super) fn weigh<S: Simd, const R: usize>(
    simd: S,
    weights: &Scores<R>,
    factors: [f32; R],
    values: Values,
    keys: usize,
    out: &mut [f32],
) {
    let vectors = out.len() / R / LANES;
    let mut done = 0;
    if S::MANY_REGISTERS {
        while done + 4 <= vectors {
            weigh_vectors::<S, R, 4>(simd, weights, factors, values, keys, done, out);
            done += 4;
        }
    }
    for at in done..vectors {
        weigh_vectors::<S, R, 1>(simd, weights, factors, values, keys, at, out);
    }
}

#[inline(always)]
fn weigh_vectors<S: Simd, const R: usize, const N: usize>(
    simd: S,
    weights: &Scores<R>,
    factors: [f32; R],
    values: Values,
    keys: usize,
    first: usize,
    out: &mut [f32],
) {
    let width = out.len() / R / LANES;
    let out = out.as_chunks_mut::<LANES>().0;
    let mut sums: [[S::V; N]; R] = std::array::from_fn(|r| {
        let factor = simd.splat(factors[r]);
        std::array::from_fn(|n| simd.mul(factor, simd.load(&out[r * width + first + n])))
    });
    for k in 0..keys.min(BLOCK) {
        let row = &values.data[k * values.stride + first * LANES..][..N * LANES];
        let row: [S::V; N] = std::array::from_fn(|n| simd.load(&row.as_chunks().0[n]));
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = simd.splat(weights[k]);
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add(weight, value, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            simd.store(*sum, &mut out[r * width + first + n]);
        }
    }
}
