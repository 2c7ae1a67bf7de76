//! Queries that share a head of keys and values, and their sums so far: online softmax (Milakov & Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>) over blocks of keys, as in FlashAttention (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>).
//!
//! Rows are (query, head of the group): with grouped queries, all heads that share keys process a block together.

use std::ops::Range;

use super::super::elementwise::Function;
use super::super::functions;
use super::super::key_values::{PANEL, SequenceView};
use super::super::simd::{LANES, LevelKernel, Simd};
use super::tile::{self, BlockValues};
use crate::backend::Attention;

/// One head of a sequence, the input of a unit.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub spec: &'a Attention,
    pub sequence: SequenceView<'a>,
    /// The head of keys and values.
    pub kv_head: usize,
}

impl Head<'_> {
    /// Returns the number of query heads that share this head.
    pub(super) fn group(&self) -> usize {
        self.spec.heads / self.spec.kv_heads
    }

    /// Returns the columns of these query heads.
    pub(super) fn columns(&self) -> Range<usize> {
        let width = self.group() * self.spec.head_dim;
        self.kv_head * width..(self.kv_head + 1) * width
    }

    /// Returns the positions that the query at `position` attends to.
    pub(super) fn visible(&self, position: usize) -> Range<usize> {
        let end = if self.spec.causal { position + 1 } else { self.sequence.len };
        let start = self.spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
        start..end.min(self.sequence.len)
    }
}

/// Queries at consecutive positions, and their sums.
pub(super) struct QueryUnit<'a> {
    /// Position of the first query.
    first: usize,
    /// Queries times heads of the group.
    rows: usize,
    head_dim: usize,
    /// `head_dim`, rounded up to whole vectors.
    width: usize,
    /// Scaled queries; each of their [`tiles`] is [head_dim, rows].
    queries: &'a mut [f32],
    /// Sums Σ e^(score − largest)·value, [rows, width].
    sums: &'a mut [f32],
    /// The largest score of each row.
    largest: &'a mut [f32],
    /// Totals Σ e^(score − largest) of each row.
    totals: &'a mut [f32],
    /// A block of values, [PANEL, width], if the head size is no multiple of the vector size.
    padded: &'a mut [f32],
}

impl<'a> QueryUnit<'a> {
    /// Returns the number of floats of storage that a unit of `queries` queries needs.
    pub(super) fn storage_len(head: Head, queries: usize) -> usize {
        let head_dim = head.spec.head_dim;
        let width = head_dim.next_multiple_of(LANES);
        let padded = if width == head_dim { 0 } else { PANEL * width };
        queries * head.group() * (head_dim + width + 2) + padded
    }

    /// Creates a unit of the queries at positions from `first` on; `q` are their rows, [.., heads·head_dim].
    pub(super) fn new(storage: &'a mut [f32], head: Head, q: &[f32], first: usize) -> Self {
        let Attention { heads, head_dim, scale, .. } = *head.spec;
        let rows = q.len() / (heads * head_dim) * head.group();
        let width = head_dim.next_multiple_of(LANES);
        let (queries, storage) = storage.split_at_mut(rows * head_dim);
        let (sums, storage) = storage.split_at_mut(rows * width);
        let (largest, storage) = storage.split_at_mut(rows);
        let (totals, padded) = storage.split_at_mut(rows);
        let query = |row: usize| {
            let columns = &q[row / head.group() * heads * head_dim..][head.columns()];
            &columns[row % head.group() * head_dim..][..head_dim]
        };
        for (first, count) in tiles(rows) {
            let tile = &mut queries[first * head_dim..][..count * head_dim];
            for row in 0..count {
                let to = tile[row..].iter_mut().step_by(count);
                to.zip(query(first + row)).for_each(|(to, from)| *to = from * scale);
            }
        }
        sums.fill(0.0);
        // The smallest finite score: −∞ − (−∞) would be NaN.
        largest.fill(f32::MIN);
        totals.fill(0.0);
        padded.fill(0.0);
        QueryUnit { first, rows, head_dim, width, queries, sums, largest, totals, padded }
    }

    /// Returns the sums of each row, [head_dim], its largest score, and the total of its weights.
    pub(super) fn sums(&self) -> impl Iterator<Item = (&[f32], f32, f32)> {
        let rows = self.sums.chunks_exact(self.width).map(|row| &row[..self.head_dim]);
        rows.zip(&*self.largest).zip(&*self.totals).map(|((sums, largest), total)| (sums, *largest, *total))
    }
}

/// Divides rows into tiles of 6, 3, 2 and 1; returns the first row and the number of rows of each.
fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let tile = move |row: usize| match rows - row {
        0 => None,
        1 | 2 => Some((row, rows - row)),
        3..6 => Some((row, 3)),
        _ => Some((row, 6)),
    };
    std::iter::successors(tile(0), move |(row, count)| tile(row + count))
}

/// Adds the visible positions in `range` to the sums of `unit`; the range begins at a whole block.
pub(super) struct Absorb<'a, 'b> {
    pub unit: &'a mut QueryUnit<'b>,
    pub head: Head<'a>,
    pub range: Range<usize>,
}

impl LevelKernel for Absorb<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Absorb { unit, head, range } = self;
        let last = unit.first + (unit.rows / head.group()).saturating_sub(1);
        let start = range.start.max(head.visible(unit.first).start / PANEL * PANEL);
        let end = range.end.min(head.visible(last).end);
        for at in (start..end).step_by(PANEL) {
            absorb_block(simd, unit, head, at..end.min(at + PANEL));
        }
    }
}

#[inline(always)]
fn absorb_block<S: Simd>(simd: S, unit: &mut QueryUnit, head: Head, positions: Range<usize>) {
    let padded = std::mem::take(&mut unit.padded);
    let values = values(head, &positions, padded);
    for (row, count) in tiles(unit.rows) {
        match count {
            1 => step::<S, 1>(simd, unit, head, &positions, values, row),
            2 => step::<S, 2>(simd, unit, head, &positions, values, row),
            3 => step::<S, 3>(simd, unit, head, &positions, values, row),
            _ => step::<S, 6>(simd, unit, head, &positions, values, row),
        }
    }
    unit.padded = padded;
}

/// Returns the values of a block: in place, or padded with zeros to whole vectors if `padded` has room for them.
#[inline(always)]
fn values<'a>(head: Head<'a>, positions: &Range<usize>, padded: &'a mut [f32]) -> BlockValues<'a> {
    let SequenceView { values, width: stride, .. } = head.sequence;
    let head_dim = head.spec.head_dim;
    let data = &values[positions.start * stride + head.kv_head * head_dim..];
    if padded.is_empty() {
        return BlockValues { data, stride };
    }
    let width = head_dim.next_multiple_of(LANES);
    for (to, from) in padded.chunks_exact_mut(width).zip(data.chunks(stride)).take(positions.len()) {
        to[..head_dim].copy_from_slice(&from[..head_dim]);
    }
    BlockValues { data: padded, stride: width }
}

/// Adds a block of keys to `R` rows from `row` on.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    simd: S,
    unit: &mut QueryUnit,
    head: Head,
    positions: &Range<usize>,
    values: BlockValues,
    row: usize,
) {
    let position = |r: usize| unit.first + (row + r) / head.group();
    let [first, last] = [0, R - 1].map(|r| head.visible(position(r)));
    let [start, end] = [positions.start, positions.end.min(last.end)];
    if end <= start || end <= first.start {
        return;
    }
    let all_visible = first.end >= start + PANEL && last.start <= start;
    let bent = head.spec.soft_cap.is_some() || head.spec.slopes.is_some();
    let mut scores = [[0.0; PANEL]; R];
    let queries = &unit.queries[row * unit.head_dim..][..R * unit.head_dim];
    let panel = start * head.sequence.width + head.kv_head * unit.head_dim * PANEL;
    let keys = &head.sequence.keys[panel..][..unit.head_dim * PANEL];
    tile::score(simd, queries, keys, (end - start).div_ceil(LANES), &mut scores);
    let mut factors = [0.0; R];
    for (r, (scores, factor)) in scores.iter_mut().zip(&mut factors).enumerate() {
        if bent {
            bend(simd, scores, head, (row + r) % head.group(), start as f32 - position(r) as f32);
        }
        if !all_visible {
            mask(scores, start, head.visible(position(r)));
        }
        *factor = soften(simd, scores, &mut unit.largest[row + r], &mut unit.totals[row + r]);
    }
    let sums = &mut unit.sums[row * unit.width..][..R * unit.width];
    tile::weigh(simd, &scores, factors, values, end - start, sums);
}

/// Caps scores, and adds ALiBi's bias; `distance` is the distance of the block's first key from the query.
#[inline(always)]
fn bend<S: Simd>(simd: S, scores: &mut [f32; PANEL], head: Head, in_group: usize, distance: f32) {
    if let Some(cap) = head.spec.soft_cap {
        simd.map(scores, Function::SoftCap(cap));
    }
    if let Some(slopes) = &head.spec.slopes {
        let slope = slopes[head.kv_head * head.group() + in_group];
        for (i, score) in scores.iter_mut().enumerate() {
            *score += slope * (distance + i as f32);
        }
    }
}

/// Sets the scores of invisible keys to −∞; the scores begin at position `start`.
#[inline(always)]
fn mask(scores: &mut [f32; PANEL], start: usize, visible: Range<usize>) {
    let within = |position: usize| position.saturating_sub(start).min(PANEL);
    scores[..within(visible.start)].fill(f32::NEG_INFINITY);
    scores[within(visible.end)..].fill(f32::NEG_INFINITY);
}

/// Converts scores to weights, e^(score − largest). Returns the factor for the earlier sums, which were computed with a
/// smaller largest score.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32; PANEL], largest: &mut f32, total: &mut f32) -> f32 {
    let mut vectors = [simd.splat(0.0); PANEL / LANES];
    for (vector, scores) in vectors.iter_mut().zip(scores.as_chunks().0) {
        *vector = simd.load(scores);
    }
    let [a, b, c, d] = vectors;
    let new = simd.largest(simd.max(simd.max(a, b), simd.max(c, d))).max(*largest);
    let shift = simd.splat(new);
    for (vector, scores) in vectors.iter_mut().zip(scores.as_chunks_mut().0) {
        *vector = functions::exp(simd, simd.sub(*vector, shift));
        simd.store(*vector, scores);
    }
    let [a, b, c, d] = vectors;
    let factor = if new == *largest { 1.0 } else { (*largest - new).exp() };
    *largest = new;
    *total = *total * factor + simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
    factor
}
