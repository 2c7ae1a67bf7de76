//! The common part of the scalar codecs: the loops that round, dequantize and measure errors.
//!
//! A [`Codec`] turns one value into a code and back; the loops here are compiled for each of them.
//! Single-threaded: the pipeline runs ranges of rows side by side.

use ndarray::ArrayView2;

use super::simd::{self, Kernel};
use super::spans::{CHUNK, Spans};
use super::{ScalarCodes, Scheme};

/// The way from a value to a code and back. Methods must be `#[inline(always)]`, see [`Kernel`].
pub(crate) trait Codec {
    /// Returns the code of `scaled` (a weight divided by its cell's scale) in a cell whose zero point is `zero`.
    fn encode(&self, scaled: f32, zero: f32) -> u8;

    /// Returns the value of `code`, before it is multiplied by the scale.
    fn decode(&self, code: u8, zero: f32) -> f32;
}

/// Rounds rows to codes: each value divided by its cell's divisor, then encoded. `zeros` has one entry per divisor, or
/// none if every zero point is 0.
pub(crate) fn round<C: Codec>(
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

/// Returns the zero point of a grid entry. An empty slice means 0 everywhere; too few is a mistake, and panics.
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

/// Returns the squared error that rounding leaves, summed over each grid entry; `importance` has one weight per column.
/// Stores no codes: searches compare grids with it.
pub(crate) fn squared_errors<C: Codec>(
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

/// Decodes codes, and multiplies by their cell's multiplier. Follows `g_idx` if the tensor has one.
pub(crate) fn dequantize<C: Codec>(
    codec: C,
    q: &ScalarCodes,
    cols: usize,
    multipliers: &[f32],
    zeros: &[f32],
    out: &mut [f32],
) {
    let spans = Spans::new(&q.scheme, cols);
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
            // Spans of one known width take a sixth less time than those of which the last may be short.
            let mut entries = self.spans.entries(row);
            let (mut codes, mut out) = (codes.chunks_exact(width), out.chunks_exact_mut(width));
            for ((codes, out), entry) in codes.by_ref().zip(out.by_ref()).zip(entries.by_ref()) {
                dequantize_span(&self.codec, codes, self.multipliers[entry], zero_at(self.zeros, entry), out);
            }
            if let Some(entry) = entries.next() {
                let (codes, out) = (codes.remainder(), out.into_remainder());
                dequantize_span(&self.codec, codes, self.multipliers[entry], zero_at(self.zeros, entry), out);
            }
        }
    }
}

#[inline(always)]
fn dequantize_span<C: Codec>(codec: &C, codes: &[u8], multiplier: f32, zero: f32, out: &mut [f32]) {
    for (&code, out) in codes.iter().zip(out) {
        *out = codec.decode(code, zero) * multiplier;
    }
}

/// Dequantizes element by element: under act-order the columns of a group lie apart.
fn dequantize_reordered<C: Codec>(
    codec: &C,
    spans: Spans,
    q: &ScalarCodes,
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
