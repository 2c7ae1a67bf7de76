//! Attention whose scores are held for a block of queries at a time and made anew for the gradient: 4 sequences of 512
//! tokens and 9 heads would hold 38 MB of them, and candle's operations pass over them some twenty times.
//!
//! Limits: no cache, no soft cap, no slopes; what has them goes through candle.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::values::{exp, of, see, total};
use crate::backend::{Attention, Span};
use crate::numerics::simd::{self, Kernel};

/// Queries whose scores are held at a time.
const QUERIES: usize = 64;

/// (q [rows, heads·d], k, v [rows, kv_heads·d]) → [rows, heads·d], of sequences that begin with their first row.
pub(super) struct Attend {
    pub spec: Attention,
    pub spans: Vec<Span>,
}

impl Attend {
    /// One unit of work per sequence and key head, in this order.
    fn units<'a>(&'a self, [q, k, v]: [MatRef<'a, f32>; 3]) -> Vec<Unit<'a>> {
        let Attention { kv_heads, head_dim, heads, .. } = self.spec;
        let wide = heads / kv_heads * head_dim;
        let mut units = Vec::new();
        for (rows, head) in self.places() {
            units.push(Unit {
                spec: &self.spec,
                q: q.submatrix(rows.start, head * wide, rows.len(), wide),
                k: k.submatrix(rows.start, head * head_dim, rows.len(), head_dim),
                v: v.submatrix(rows.start, head * head_dim, rows.len(), head_dim),
            });
        }
        units
    }

    /// Rows and key head of each unit.
    fn places(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let rows = self.spans.iter().scan(0, |row, span| {
            *row += span.len;
            Some(*row - span.len..*row)
        });
        let rows = rows.filter(|rows| !rows.is_empty());
        rows.flat_map(|rows| (0..self.spec.kv_heads).map(move |head| (rows.clone(), head)))
    }

    /// Puts what units made, [len, width] each, side by side and one below the other.
    fn assembled(&self, parts: &[Vec<f32>], rows: usize, width: usize) -> Vec<f32> {
        let cols = width * self.spec.kv_heads;
        let mut all = vec![0.0; rows * cols];
        for ((rows, head), part) in self.places().zip(parts) {
            for (row, values) in rows.zip(part.chunks_exact(width)) {
                all[row * cols + head * width..][..width].copy_from_slice(values);
            }
        }
        all
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = q_layout.shape().dims2()?;
        let inputs = [(q, q_layout), (k, k_layout), (v, v_layout)];
        let [q, k, v] = inputs.map(|(values, layout)| matrix(of(values, layout)?, layout.shape()));
        let inputs = [q?, k?, v?];
        let parts: Vec<_> = self.units(inputs).par_iter().map(Unit::forward).collect();
        let out = self.assembled(&parts, rows, cols / self.spec.kv_heads);
        Ok((CpuStorage::F32(out), (rows, cols).into()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, cols) = q.dims2()?;
        let wide = cols / self.spec.kv_heads;
        let parts = with_matrices([q, k, v, gradient], |[q, k, v, gradient]| {
            let units = self.units([q, k, v]);
            let gradients = self
                .places()
                .map(|(rows, head)| gradient.submatrix(rows.start, head * wide, rows.len(), wide));
            units
                .par_iter()
                .zip(gradients.collect::<Vec<_>>())
                .map(|(unit, g)| unit.backward(g))
                .collect::<Vec<_>>()
        })?;
        let mut parts_of = [Vec::new(), Vec::new(), Vec::new()];
        for part in parts {
            parts_of.iter_mut().zip(part).for_each(|(all, part)| all.push(part));
        }
        let tensor = |parts: &[Vec<f32>], like: &Tensor| {
            let width = like.dim(1)? / self.spec.kv_heads;
            Tensor::from_vec(self.assembled(parts, rows, width), like.shape(), like.device()).map(Some)
        };
        Ok((tensor(&parts_of[0], q)?, tensor(&parts_of[1], k)?, tensor(&parts_of[2], v)?))
    }
}

/// Values as a matrix.
fn matrix<'a>(values: &'a [f32], shape: &Shape) -> Result<MatRef<'a, f32>> {
    let (rows, cols) = shape.dims2()?;
    Ok(MatRef::from_row_major_slice(values, rows, cols))
}

/// Shows four tensors as matrices.
fn with_matrices<R>([q, k, v, g]: [&Tensor; 4], look: impl FnOnce([MatRef<f32>; 4]) -> R) -> Result<R> {
    let (a, b, c, d) = (q.shape(), k.shape(), v.shape(), g.shape());
    see(q, |q| {
        see(k, |k| {
            see(v, |v| see(g, |g| Ok(look([matrix(q, a)?, matrix(k, b)?, matrix(v, c)?, matrix(g, d)?]))))
        })
    })
}

/// The query heads that share a key head, in one sequence.
struct Unit<'a> {
    spec: &'a Attention,
    /// [len, group·d].
    q: MatRef<'a, f32>,
    /// [len, d].
    k: MatRef<'a, f32>,
    v: MatRef<'a, f32>,
}

/// Queries of one head, and the keys that any of them sees.
struct Tile {
    column: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Unit<'_> {
    /// Every head's blocks of queries.
    fn tiles(&self) -> impl Iterator<Item = Tile> {
        let &Attention { head_dim, causal, window, .. } = self.spec;
        let len = self.q.nrows();
        (0..self.q.ncols() / head_dim).flat_map(move |head| {
            (0..len).step_by(QUERIES).map(move |start| {
                let end = len.min(start + QUERIES);
                let first = window.map_or(0, |window| (start + 1).saturating_sub(window));
                let keys = first..if causal { end } else { len };
                Tile { column: head * head_dim, queries: start..end, keys }
            })
        })
    }

    /// softmax(scale·q·kᵀ) of a tile, hidden keys having 0: [queries, keys].
    fn weights(&self, tile: &Tile, weights: &mut Vec<f32>) {
        let (rows, cols) = (tile.queries.len(), tile.keys.len());
        weights.resize(rows * cols, 0.0);
        let queries = part(self.q, &tile.queries, tile.column, self.spec.head_dim);
        let keys = self.k.subrows(tile.keys.start, cols);
        product(weights, cols, Accum::Replace, queries, keys.transpose());
        simd::dispatch(Softmax { spec: self.spec, tile, scores: weights });
    }

    /// [len, group·d].
    fn forward(&self) -> Vec<f32> {
        let (width, dim) = (self.q.ncols(), self.spec.head_dim);
        let mut out = vec![0.0; self.q.nrows() * width];
        let mut weights = Vec::new();
        for tile in self.tiles() {
            self.weights(&tile, &mut weights);
            let target = MatMut::from_row_major_slice_mut(&mut out, self.q.nrows(), width);
            let target = target.submatrix_mut(tile.queries.start, tile.column, tile.queries.len(), dim);
            let weights = MatRef::from_row_major_slice(&weights, tile.queries.len(), tile.keys.len());
            let values = self.v.subrows(tile.keys.start, tile.keys.len());
            matmul(target, Accum::Replace, weights, values, 1.0, Par::Seq);
        }
        out
    }

    /// The gradients of q, k and v.
    fn backward(&self, gradient: MatRef<f32>) -> [Vec<f32>; 3] {
        let (len, width, dim) = (self.q.nrows(), self.q.ncols(), self.spec.head_dim);
        let [mut for_q, mut for_k, mut for_v] = [width, dim, dim].map(|cols| vec![0.0; len * cols]);
        let (mut weights, mut scores) = (Vec::new(), Vec::new());
        for tile in self.tiles() {
            self.weights(&tile, &mut weights);
            let (rows, cols) = (tile.queries.len(), tile.keys.len());
            let gradient = part(gradient, &tile.queries, tile.column, dim);
            let [keys, values] = [self.k, self.v].map(|x| x.subrows(tile.keys.start, cols));
            scores.resize(rows * cols, 0.0);
            product(&mut scores, cols, Accum::Replace, gradient, values.transpose());
            simd::dispatch(SoftmaxBack {
                scale: self.spec.scale,
                weights: &weights,
                cols,
                scores: &mut scores,
            });

            let [weights, scores] = [&weights, &scores].map(|x| MatRef::from_row_major_slice(x, rows, cols));
            let target = MatMut::from_row_major_slice_mut(&mut for_q, len, width);
            let target = target.submatrix_mut(tile.queries.start, tile.column, rows, dim);
            matmul(target, Accum::Replace, scores, keys, 1.0, Par::Seq);
            let seen = tile.keys.start * dim..tile.keys.end * dim;
            let queries = part(self.q, &tile.queries, tile.column, dim);
            product(&mut for_k[seen.clone()], dim, Accum::Add, scores.transpose(), queries);
            product(&mut for_v[seen], dim, Accum::Add, weights.transpose(), gradient);
        }
        [for_q, for_k, for_v]
    }
}

/// Rows of a head.
fn part<'a>(x: MatRef<'a, f32>, rows: &Range<usize>, column: usize, dim: usize) -> MatRef<'a, f32> {
    x.submatrix(rows.start, column, rows.len(), dim)
}

/// out = a·b, or out += a·b; row-major.
fn product(out: &mut [f32], cols: usize, accum: Accum, a: MatRef<f32>, b: MatRef<f32>) {
    let out = MatMut::from_row_major_slice_mut(out, a.nrows(), cols);
    matmul(out, accum, a, b, 1.0, Par::Seq);
}

/// Scores → weights, in place.
struct Softmax<'a> {
    spec: &'a Attention,
    tile: &'a Tile,
    scores: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (keys, scale) = (&self.tile.keys, self.spec.scale);
        for (query, row) in self.tile.queries.clone().zip(self.scores.chunks_exact_mut(keys.len())) {
            let first = self.spec.window.map_or(0, |window| (query + 1).saturating_sub(window));
            let last = if self.spec.causal { query + 1 } else { keys.end };
            let (before, row) = row.split_at_mut(first.saturating_sub(keys.start));
            let (row, after) = row.split_at_mut(last - first.max(keys.start));
            before.fill(0.0);
            after.fill(0.0);
            let largest = row.iter().fold(f32::NEG_INFINITY, |largest, x| simd::max(largest, x * scale));
            row.iter_mut().for_each(|x| *x = exp(*x * scale - largest));
            let factor = 1.0 / total(row, row, |x, _| x);
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// Gradients of weights → gradients of q·k, in place: scale·w·(g − Σ w·g).
struct SoftmaxBack<'a> {
    scale: f32,
    weights: &'a [f32],
    cols: usize,
    scores: &'a mut [f32],
}

impl Kernel for SoftmaxBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.weights.chunks_exact(self.cols).zip(self.scores.chunks_exact_mut(self.cols));
        for (weights, row) in rows {
            let mean = total(weights, row, |w, g| w * g);
            for (g, w) in row.iter_mut().zip(weights) {
                *g = self.scale * w * (*g - mean);
            }
        }
    }
}
