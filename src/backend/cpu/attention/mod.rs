//! Attention, softmax(q·kᵀ)·v, which never stores the scores of more than a block of keys.
//!
//! Many rows are divided among tasks by blocks of queries. Few rows (decoding) are divided by heads and parts of the
//! context; the partial sums are then merged. In both cases each result comes from the same operations in the same
//! order, for any number of threads.

mod tile;
mod unit;

use rayon::prelude::*;

use super::buffers::{Buffer, Pool, Tensor};
use super::key_values::{KeyValueCache, SequenceView, pack_keys, panels_len};
use super::level::Level;
use crate::backend::{Attention, Span};
use unit::{Absorb, Head, QueryUnit};

/// Queries per task for many rows: few enough that causal tasks, of which the last ones have the most work, balance.
const QUERIES: usize = 32;
/// Rows of a span from which a batch is divided by queries; if no span has so many, it is divided by heads.
const MANY: usize = 8;
/// Positions per task for few rows.
const PART: usize = 256;
/// Products of a query's and a key's element below which dividing the work costs more than it saves.
const WORTH_SHARING: usize = 100_000;

/// A span, and the positions of its rows and keys.
#[derive(Clone, Copy)]
struct SpanLocation {
    span: Span,
    /// Its first row in the batch.
    row: usize,
    /// Positions of the panels before its own, if the batch's keys are packed.
    packed: usize,
}

fn places(spans: &[Span]) -> impl Iterator<Item = SpanLocation> {
    spans.iter().scan((0, 0), |(row, packed), &span| {
        let place = SpanLocation { span, row: *row, packed: *packed };
        *row += span.len;
        *packed += panels_len(span.len, 1);
        Some(place)
    })
}

/// The source of keys and values: the cache, or the batch itself.
enum KeyValueSource<'a> {
    Cache(&'a KeyValueCache),
    Batch { keys: Buffer, values: &'a [f32], width: usize },
}

impl KeyValueSource<'_> {
    fn of_batch<'a>(pool: &Pool, k: &Tensor, v: &'a Tensor, spans: &[Span]) -> KeyValueSource<'a> {
        let width = k.cols;
        let mut keys = pool.take(spans.iter().map(|span| panels_len(span.len, width)).sum());
        for SpanLocation { span, row, packed } in places(spans) {
            let panels = &mut keys[packed * width..][..panels_len(span.len, width)];
            pack_keys(&k.data[row * width..][..span.len * width], width, 0, panels);
        }
        KeyValueSource::Batch { keys, values: &v.data, width }
    }

    fn sequence(&self, place: SpanLocation) -> SequenceView<'_> {
        match self {
            KeyValueSource::Cache(cache) => cache.sequence(place.span.slot),
            KeyValueSource::Batch { keys, values, width } => {
                let (width, len) = (*width, place.span.len);
                let keys = &keys[place.packed * width..][..panels_len(len, width)];
                SequenceView { keys, values: &values[place.row * width..][..len * width], width, len }
            }
        }
    }
}

/// The arguments of [`attend`].
struct AttentionJob<'a> {
    level: Level,
    pool: &'a Pool,
    q: &'a Tensor,
    spec: &'a Attention,
    spans: &'a [Span],
    source: KeyValueSource<'a>,
}

/// Implements [`Backend::attention`](crate::backend::Backend::attention).
///
/// # Panics
/// If shapes do not agree, or if a span's past is more than its slot holds.
#[allow(clippy::too_many_arguments)] // The operation's own arguments, and its resources.
pub(super) fn attend(
    level: Level,
    pool: &Pool,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: &Attention,
    spans: &[Span],
    cache: Option<&mut KeyValueCache>,
) -> Tensor {
    check(q, k, v, spec, spans);
    let source = match cache {
        Some(cache) => {
            for SpanLocation { span, row, .. } in places(spans) {
                let rows = row * k.cols..(row + span.len) * k.cols;
                cache.append(span.slot, span.past, &k.data[rows.clone()], &v.data[rows]);
            }
            KeyValueSource::Cache(cache)
        }
        None => KeyValueSource::of_batch(pool, k, v, spans),
    };
    let mut out = Tensor::unwritten(pool, q.rows, q.cols);
    let job = AttentionJob { level, pool, q, spec, spans, source };
    if spans.iter().any(|span| span.len >= MANY) {
        job.by_queries(&mut out)
    } else {
        job.by_heads(&mut out)
    }
    out
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, spec: &Attention, spans: &[Span]) {
    let Attention { heads, kv_heads, head_dim, .. } = *spec;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attention: {heads} heads share {kv_heads}");
    let rows: usize = spans.iter().map(|span| span.len).sum();
    assert_eq!([q.rows, q.cols], [rows, heads * head_dim], "attention: queries");
    assert_eq!([k.rows, k.cols], [rows, kv_heads * head_dim], "attention: keys");
    assert_eq!([v.rows, v.cols], [rows, kv_heads * head_dim], "attention: values");
}

impl AttentionJob<'_> {
    fn head(&self, place: SpanLocation, kv_head: usize) -> Head<'_> {
        Head { spec: self.spec, sequence: self.source.sequence(place), kv_head }
    }

    fn by_queries(&self, out: &mut Tensor) {
        let cols = out.cols;
        out.data.par_chunks_mut(QUERIES * cols).enumerate().for_each(|(i, out)| {
            let rows = i * QUERIES..i * QUERIES + out.len() / cols;
            for place in places(self.spans) {
                let start = rows.start.max(place.row);
                let end = rows.end.min(place.row + place.span.len);
                if start < end {
                    let out = &mut out[(start - rows.start) * cols..(end - rows.start) * cols];
                    self.queries(place, start, out);
                }
            }
        });
    }

    /// Computes the rows of a span from `row` on, as many as `out` holds.
    fn queries(&self, place: SpanLocation, row: usize, out: &mut [f32]) {
        let cols = self.q.cols;
        let q = &self.q.data[row * cols..][..out.len()];
        for kv_head in 0..self.spec.kv_heads {
            let head = self.head(place, kv_head);
            let mut storage = self.pool.take(QueryUnit::storage_len(head, q.len() / cols));
            let mut unit = QueryUnit::new(&mut storage, head, q, place.span.past + row - place.row);
            self.level.run(Absorb { unit: &mut unit, head, range: 0..head.sequence.len });
            let rows = out
                .chunks_exact_mut(cols)
                .flat_map(|row| row[head.columns()].chunks_exact_mut(self.spec.head_dim));
            for (out, (sums, _, total)) in rows.zip(unit.sums()) {
                let factor = 1.0 / total;
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
            }
        }
    }

    fn by_heads(&self, out: &mut Tensor) {
        let Attention { heads, kv_heads, head_dim, .. } = *self.spec;
        let longest = places(self.spans).map(|place| self.source.sequence(place).len).max().unwrap_or(0);
        let parts = longest.div_ceil(PART);
        let mut partial = PartialSums::new(self.pool, out.rows * kv_heads, parts, heads / kv_heads, head_dim);
        let small = out.data.len() * longest < WORTH_SHARING;
        let tasks = partial.tasks().with_min_len(if small { usize::MAX } else { 1 });
        tasks.enumerate().for_each(|(i, to)| {
            self.part(i / (kv_heads * parts), i / parts % kv_heads, i % parts, to);
        });
        out.data.chunks_exact_mut(head_dim).enumerate().for_each(|(head, out)| partial.merge(head, out));
    }

    /// Computes the attention of one row to one part of its sequence, for one head of keys and values.
    fn part(&self, row: usize, kv_head: usize, part: usize, to: &mut [f32]) {
        let place = places(self.spans).find(|place| (place.row..place.row + place.span.len).contains(&row));
        let place = place.expect("`check` found every row in a span");
        let head = self.head(place, kv_head);
        let mut storage = self.pool.take(QueryUnit::storage_len(head, 1));
        let q = &self.q.data[row * self.q.cols..][..self.q.cols];
        let mut unit = QueryUnit::new(&mut storage, head, q, place.span.past + row - place.row);
        self.level.run(Absorb { unit: &mut unit, head, range: part * PART..(part + 1) * PART });
        for (to, (sums, largest, total)) in to.chunks_exact_mut(self.spec.head_dim + 2).zip(unit.sums()) {
            to[..sums.len()].copy_from_slice(sums);
            to[sums.len()..].copy_from_slice(&[largest, total]);
        }
    }
}

/// The sums of parts of sequences, [rows·kv_heads, parts, group, head_dim + 2]. The last two are the largest score and
/// the total of the weights.
struct PartialSums {
    data: Buffer,
    parts: usize,
    group: usize,
    head_dim: usize,
}

impl PartialSums {
    fn new(pool: &Pool, units: usize, parts: usize, group: usize, head_dim: usize) -> Self {
        PartialSums { data: pool.take(units * parts * group * (head_dim + 2)), parts, group, head_dim }
    }

    fn tasks(&mut self) -> rayon::slice::ChunksExactMut<'_, f32> {
        self.data.par_chunks_exact_mut(self.group * (self.head_dim + 2))
    }

    /// Merges the sums of all parts for a query head, counted over all rows.
    fn merge(&self, head: usize, out: &mut [f32]) {
        let part = |part: usize| {
            let at = (head / self.group * self.parts + part) * self.group + head % self.group;
            let data = &self.data[at * (self.head_dim + 2)..][..self.head_dim + 2];
            (&data[..self.head_dim], data[self.head_dim], data[self.head_dim + 1])
        };
        let largest = (0..self.parts).map(|i| part(i).1).fold(f32::MIN, f32::max);
        let weight = |i: usize| (part(i).1 - largest).exp();
        let total: f32 = (0..self.parts).map(|i| weight(i) * part(i).2).sum();
        out.fill(0.0);
        for i in 0..self.parts {
            let factor = weight(i) / total;
            out.iter_mut().zip(part(i).0).for_each(|(out, sum)| *out += factor * sum);
        }
    }
}

#[cfg(test)]
mod tests;
