//! What the scalar codecs share: the walk over the cells of a grid, and the loops of their three verbs.
//!
//! A *cell* is the set of elements that share a grid entry; a *span* is the part of a cell that lies in one row, which is
//! consecutive. A codec says how one value becomes a code and back; the loops here are compiled for each of them.
//! Single-threaded: the pipeline runs ranges of rows side by side.

use std::ops::Range;

use ndarray::ArrayView2;

use super::simd::{self, Kernel};
use super::{Context, Extent, Granularity, QTensor, Scheme};

/// How a value becomes a code and back. Methods must be `#[inline(always)]`, see [`Kernel`].
pub trait Codec {
    /// The code of `scaled` (a weight divided by its cell's scale) in a cell whose zero point is `zero`.
    fn encode(&self, scaled: f32, zero: f32) -> u8;

    /// What `code` stands for, before it is multiplied by the scale.
    fn decode(&self, code: u8, zero: f32) -> f32;
}

/// Elements that a loop handles at a time: two AVX2 registers of f32, and NVFP4's group.
const CHUNK: usize = 16;

/// How the rows of a tensor fall into spans.
#[derive(Debug, Clone, Copy)]
struct Spans {
    /// Columns of a row.
    cols: usize,
    /// Columns of a span; the last one of a row may be short.
    width: usize,
    /// Rows of a cell.
    height: usize,
    /// Entries that a row touches.
    per_row: usize,
}

impl Spans {
    fn new(scheme: &Scheme, cols: usize) -> Spans {
        let (height, width) = match scheme.granularity {
            Granularity::Tensor => (usize::MAX, cols),
            Granularity::Channel => (1, cols),
            Granularity::Group(group) => (1, group),
            Granularity::Block(rows, columns) => (rows, columns),
        };
        let width = width.max(1);
        Spans { cols: cols.max(1), width, height, per_row: cols.div_ceil(width) }
    }

    /// The grid entries of a row's spans, in order.
    #[inline(always)]
    fn entries(&self, row: usize) -> Range<usize> {
        let first = row / self.height * self.per_row;
        first..first + self.per_row
    }
}

/// The largest magnitude of each grid entry; of the whole tensor, from the context.
pub fn absmax(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Vec<f32> {
    if scheme.granularity == Granularity::Tensor {
        return vec![tensor_extent(context).absmax()];
    }
    reduce(scheme, w, 0.0, Magnitude)
}

/// The smallest and the largest value of each grid entry; of the whole tensor, from the context.
pub fn extents(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Vec<Extent> {
    if scheme.granularity == Granularity::Tensor {
        return vec![tensor_extent(context)];
    }
    let lows = reduce(scheme, w, f32::INFINITY, Smallest);
    let highs = reduce(scheme, w, f32::NEG_INFINITY, Largest);
    lows.into_iter().zip(highs).map(|(min, max)| Extent { min, max }).collect()
}

/// The extent of the whole tensor.
///
/// # Panics
/// Where the context has none: the caller did not ask [`Scheme::needs_extent`].
pub fn tensor_extent(context: &Context) -> Extent {
    context.extent.expect("a scheme that needs the tensor's extent is given one")
}

/// A way to combine values into one.
trait Combine {
    /// Takes a value into a lane; drops it where it is NaN.
    fn take(&self, value: f32, lane: f32) -> f32;

    /// Joins two lanes. With [`f32::max`] rather than [`simd::max`], whose selects LLVM here turns into branches that no
    /// predictor guesses: three times slower on groups of 32.
    fn join(&self, a: f32, b: f32) -> f32;
}

struct Magnitude;
struct Smallest;
struct Largest;

impl Combine for Magnitude {
    #[inline(always)]
    fn take(&self, value: f32, lane: f32) -> f32 {
        simd::max(value.abs(), lane)
    }

    #[inline(always)]
    fn join(&self, a: f32, b: f32) -> f32 {
        a.max(b)
    }
}

impl Combine for Smallest {
    #[inline(always)]
    fn take(&self, value: f32, lane: f32) -> f32 {
        simd::min(value, lane)
    }

    #[inline(always)]
    fn join(&self, a: f32, b: f32) -> f32 {
        a.min(b)
    }
}

impl Combine for Largest {
    #[inline(always)]
    fn take(&self, value: f32, lane: f32) -> f32 {
        simd::max(value, lane)
    }

    #[inline(always)]
    fn join(&self, a: f32, b: f32) -> f32 {
        a.max(b)
    }
}

fn reduce<C: Combine>(scheme: &Scheme, w: ArrayView2<f32>, start: f32, combine: C) -> Vec<f32> {
    let [rows, cols] = scheme.grid_shape(w.nrows(), w.ncols());
    let mut entries = vec![start; rows * cols];
    let spans = Spans::new(scheme, w.ncols());
    let w = w.as_standard_layout();
    let values = w.as_slice().expect("standard layout is contiguous");
    simd::dispatch(Reduce { spans, values, start, combine, entries: &mut entries });
    entries
}

struct Reduce<'a, C> {
    spans: Spans,
    values: &'a [f32],
    start: f32,
    combine: C,
    entries: &'a mut [f32],
}

impl<C: Combine> Kernel for Reduce<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (row, values) in self.values.chunks_exact(self.spans.cols).enumerate() {
            let entries = &mut self.entries[self.spans.entries(row)];
            for (span, entry) in values.chunks(self.spans.width).zip(entries) {
                *entry = self.combine.join(reduce_span(&self.combine, self.start, span), *entry);
            }
        }
    }
}

/// Keeps [`CHUNK`] lanes apart and joins them last, in an order that no target changes.
#[inline(always)]
fn reduce_span<C: Combine>(combine: &C, start: f32, span: &[f32]) -> f32 {
    let (chunks, rest) = span.as_chunks::<CHUNK>();
    let mut lanes = [start; CHUNK];
    for chunk in chunks {
        take_chunk(combine, chunk, &mut lanes);
    }
    if !rest.is_empty() {
        let mut padded = [start; CHUNK];
        padded[..rest.len()].copy_from_slice(rest);
        take_chunk(combine, &padded, &mut lanes);
    }
    let eight: [f32; 8] = halve(combine, &lanes);
    let four: [f32; 4] = halve(combine, &eight);
    let two: [f32; 2] = halve(combine, &four);
    combine.join(two[1], two[0])
}

#[inline(always)]
fn take_chunk<C: Combine>(combine: &C, values: &[f32; CHUNK], lanes: &mut [f32; CHUNK]) {
    for (lane, &value) in lanes.iter_mut().zip(values) {
        *lane = combine.take(value, *lane);
    }
}

/// Joins the upper half of the lanes to the lower.
#[inline(always)]
fn halve<C: Combine, const HALF: usize>(combine: &C, lanes: &[f32]) -> [f32; HALF] {
    let mut halved = [0.0; HALF];
    for (lane, halved) in halved.iter_mut().enumerate() {
        *halved = combine.join(lanes[lane + HALF], lanes[lane]);
    }
    halved
}

/// Rounds rows to codes: each value divided by its cell's divisor, then encoded. `zeros` has one entry per divisor, or
/// none where every zero point is 0.
pub fn round<C: Codec>(
    codec: C,
    scheme: &Scheme,
    w: ArrayView2<f32>,
    divisors: &[f32],
    zeros: &[f32],
) -> Vec<u8> {
    let mut codes = vec![0; w.len()];
    let spans = Spans::new(scheme, w.ncols());
    let w = w.as_standard_layout();
    let values = w.as_slice().expect("standard layout is contiguous");
    simd::dispatch(Round { codec, spans, values, divisors, zeros, codes: &mut codes });
    codes
}

struct Round<'a, C> {
    codec: C,
    spans: Spans,
    values: &'a [f32],
    divisors: &'a [f32],
    zeros: &'a [f32],
    codes: &'a mut [u8],
}

impl<C: Codec> Kernel for Round<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Spans { cols, width, .. } = self.spans;
        let rows = self.values.chunks_exact(cols).zip(self.codes.chunks_exact_mut(cols));
        for (row, (values, codes)) in rows.enumerate() {
            let spans = values.chunks(width).zip(codes.chunks_mut(width));
            for (entry, (values, codes)) in self.spans.entries(row).zip(spans) {
                let zero = zero_at(self.zeros, entry);
                round_span(&self.codec, values, self.divisors[entry], zero, codes);
            }
        }
    }
}

/// The zero point of a grid entry. None at all means 0 everywhere; too few is a mistake, and panics.
#[inline(always)]
fn zero_at(zeros: &[f32], entry: usize) -> f32 {
    if zeros.is_empty() { 0.0 } else { zeros[entry] }
}

#[inline(always)]
fn round_span<C: Codec>(codec: &C, values: &[f32], divisor: f32, zero: f32, codes: &mut [u8]) {
    let (value_chunks, value_rest) = values.as_chunks::<CHUNK>();
    let (code_chunks, code_rest) = codes.as_chunks_mut::<CHUNK>();
    for (values, codes) in value_chunks.iter().zip(code_chunks) {
        for (&value, code) in values.iter().zip(codes) {
            *code = codec.encode(value / divisor, zero);
        }
    }
    for (&value, code) in value_rest.iter().zip(code_rest) {
        *code = codec.encode(value / divisor, zero);
    }
}

/// The squared error that rounding leaves, summed over each grid entry; `importance` has one weight per column. What is
/// rounded to is not stored: searches compare grids with it.
pub fn squared_errors<C: Codec>(
    codec: C,
    scheme: &Scheme,
    w: ArrayView2<f32>,
    scales: &[f32],
    zeros: &[f32],
    importance: Option<&[f32]>,
) -> Vec<f32> {
    let [rows, cols] = scheme.grid_shape(w.nrows(), w.ncols());
    let mut errors = vec![0.0; rows * cols];
    let spans = Spans::new(scheme, w.ncols());
    let w = w.as_standard_layout();
    let values = w.as_slice().expect("standard layout is contiguous");
    let uniform = importance.is_none().then(|| vec![1.0; w.ncols()]);
    let weights = importance.or(uniform.as_deref()).unwrap_or_default();
    simd::dispatch(SquaredErrors { codec, spans, values, scales, zeros, weights, errors: &mut errors });
    errors
}

struct SquaredErrors<'a, C> {
    codec: C,
    spans: Spans,
    values: &'a [f32],
    scales: &'a [f32],
    zeros: &'a [f32],
    weights: &'a [f32],
    errors: &'a mut [f32],
}

impl<C: Codec> Kernel for SquaredErrors<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Spans { cols, width, .. } = self.spans;
        for (row, values) in self.values.chunks_exact(cols).enumerate() {
            let spans = values.chunks(width).zip(self.weights.chunks(width));
            for (entry, (values, weights)) in self.spans.entries(row).zip(spans) {
                let zero = zero_at(self.zeros, entry);
                self.errors[entry] += span_error(&self.codec, values, weights, self.scales[entry], zero);
            }
        }
    }
}

/// Keeps [`CHUNK`] lanes apart and adds them last, in an order that no target changes.
#[inline(always)]
fn span_error<C: Codec>(codec: &C, values: &[f32], weights: &[f32], scale: f32, zero: f32) -> f32 {
    let error = |value: f32, weight: f32| {
        let left = codec.decode(codec.encode(value / scale, zero), zero) * scale - value;
        left * left * weight
    };
    let mut lanes = [0.0; CHUNK];
    let (value_chunks, value_rest) = values.as_chunks::<CHUNK>();
    let (weight_chunks, weight_rest) = weights.as_chunks::<CHUNK>();
    for (values, weights) in value_chunks.iter().zip(weight_chunks) {
        for ((&value, &weight), lane) in values.iter().zip(weights).zip(&mut lanes) {
            *lane += error(value, weight);
        }
    }
    for ((&value, &weight), lane) in value_rest.iter().zip(weight_rest).zip(&mut lanes) {
        *lane += error(value, weight);
    }
    for half in [CHUNK / 2, CHUNK / 4, CHUNK / 8, CHUNK / 16] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Codes → values: decoded, then multiplied by their cell's multiplier. Follows `g_idx` where the tensor has one.
pub fn dequantize<C: Codec>(codec: C, q: &QTensor, multipliers: &[f32], zeros: &[f32], out: &mut [f32]) {
    let spans = Spans::new(&q.scheme, q.cols);
    match &q.g_idx {
        Some(g_idx) => dequantize_reordered(&codec, spans, q, g_idx, multipliers, zeros, out),
        None => simd::dispatch(Dequantize { codec, spans, codes: &q.codes, multipliers, zeros, out }),
    }
}

struct Dequantize<'a, C> {
    codec: C,
    spans: Spans,
    codes: &'a [u8],
    multipliers: &'a [f32],
    zeros: &'a [f32],
    out: &'a mut [f32],
}

impl<C: Codec> Kernel for Dequantize<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Spans { cols, width, .. } = self.spans;
        let rows = self.codes.chunks_exact(cols).zip(self.out.chunks_exact_mut(cols));
        for (row, (codes, out)) in rows.enumerate() {
            let spans = codes.chunks(width).zip(out.chunks_mut(width));
            for (entry, (codes, out)) in self.spans.entries(row).zip(spans) {
                let (multiplier, zero) = (self.multipliers[entry], zero_at(self.zeros, entry));
                for (&code, out) in codes.iter().zip(out) {
                    *out = self.codec.decode(code, zero) * multiplier;
                }
            }
        }
    }
}

/// Columns of a group lie apart under act-order: element by element.
fn dequantize_reordered<C: Codec>(
    codec: &C,
    spans: Spans,
    q: &QTensor,
    g_idx: &[u32],
    multipliers: &[f32],
    zeros: &[f32],
    out: &mut [f32],
) {
    let rows = q.codes.chunks_exact(spans.cols).zip(out.chunks_exact_mut(spans.cols));
    for (row, (codes, out)) in rows.enumerate() {
        let first = spans.entries(row).start;
        for ((&code, out), &group) in codes.iter().zip(out).zip(g_idx) {
            let entry = first + group as usize;
            let zero = zero_at(zeros, entry);
            *out = codec.decode(code, zero) * multipliers[entry];
        }
    }
}
