//! The two products of attention, queries by keys and weights by values, as tiles whose sums stay in registers.

use super::super::key_values::PANEL;
use super::super::simd::{LANES, Simd};

/// Vectors of a block of keys; a block is a panel.
const VECTORS: usize = PANEL / LANES;

/// Scores of a tile's rows for a block's keys; later their weights.
pub(super) type Scores<const R: usize> = [[f32; PANEL]; R];

/// Computes scores of `R` queries, \[depth, R\], for the first `vectors` vectors of a panel's keys, \[depth, PANEL\]:
/// Σₖ query\[k, r\]·key\[k\].
#[inline(always)]
pub(super) fn score<S: Simd, const R: usize>(
    simd: S,
    queries: &[f32],
    keys: &[f32],
    vectors: usize,
    out: &mut Scores<R>,
) {
    if S::MANY_REGISTERS && vectors == VECTORS {
        return score_vectors::<S, R, VECTORS>(simd, queries, keys, 0, out);
    }
    for at in 0..vectors {
        score_vectors::<S, R, 1>(simd, queries, keys, at, out);
    }
}

#[inline(always)]
fn score_vectors<S: Simd, const R: usize, const N: usize>(
    simd: S,
    queries: &[f32],
    keys: &[f32],
    first: usize,
    out: &mut Scores<R>,
) {
    let mut sums = [[simd.splat(0.0); N]; R];
    for (query, column) in queries.as_chunks::<R>().0.iter().zip(keys.as_chunks::<PANEL>().0) {
        let mut keys = [simd.splat(0.0); N];
        for (key, column) in keys.iter_mut().zip(&column.as_chunks().0[first..]) {
            *key = simd.load(column);
        }
        for (sums, query) in sums.iter_mut().zip(query) {
            let query = simd.splat(*query);
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum = simd.mul_add(query, key, *sum);
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
pub(super) struct BlockValues<'a> {
    /// Values from the head's columns of the first key on.
    pub data: &'a [f32],
    /// Distance between keys.
    pub stride: usize,
}

/// Computes out\[r\] ← factors\[r\]·out\[r\] + Σₖ weights\[r, k\]·value\[k\] for the block's first `keys` keys.
/// `out` is \[R, width\]; the width is a multiple of [`LANES`].
#[inline(always)]
pub(super) fn weigh<S: Simd, const R: usize>(
    simd: S,
    weights: &Scores<R>,
    factors: [f32; R],
    values: BlockValues,
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
    values: BlockValues,
    keys: usize,
    first: usize,
    out: &mut [f32],
) {
    let width = out.len() / R / LANES;
    let out = out.as_chunks_mut::<LANES>().0;
    let mut sums = [[simd.splat(0.0); N]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        let factor = simd.splat(factors[r]);
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = simd.mul(factor, simd.load(&out[r * width + first + n]));
        }
    }
    for k in 0..keys.min(PANEL) {
        let data = &values.data[k * values.stride + first * LANES..][..N * LANES];
        let mut row = [simd.splat(0.0); N];
        for (value, data) in row.iter_mut().zip(data.as_chunks().0) {
            *value = simd.load(data);
        }
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
