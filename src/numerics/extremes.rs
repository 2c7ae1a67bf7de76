//! The extreme values of each cell of a grid, and the grid that covers the largest magnitudes.

use ndarray::ArrayView2;

use super::simd::{self, Kernel};
use super::spans::{CHUNK, Spans};
use super::{Context, Extent, Granularity, Grid, Scheme};

/// Returns the largest magnitude of each grid entry; that of a whole tensor comes from the context.
pub(crate) fn absmax(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Vec<f32> {
    if scheme.granularity == Granularity::Tensor {
        return vec![tensor_extent(context).absmax()];
    }
    reduce(scheme, w, 0.0, Magnitude)
}

/// Fits the grid whose largest code covers the largest magnitude of each entry.
pub(crate) fn fit_absmax(scheme: &Scheme, w: ArrayView2<f32>, context: &Context, largest: f32) -> Grid {
    let absmax = absmax(scheme, w, context);
    let scales = absmax.into_iter().map(|absmax| scheme.scale.covering(absmax, largest)).collect();
    Grid { scales, ..Grid::default() }
}

/// Returns the smallest and the largest value of each grid entry; those of a whole tensor come from the context.
pub(crate) fn extents(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Vec<Extent> {
    if scheme.granularity == Granularity::Tensor {
        return vec![tensor_extent(context)];
    }
    let lows = reduce(scheme, w, f32::INFINITY, Smallest);
    let highs = reduce(scheme, w, f32::NEG_INFINITY, Largest);
    lows.into_iter().zip(highs).map(|(min, max)| Extent { min, max }).collect()
}

/// Returns the extent of the whole tensor.
///
/// # Panics
/// If the context has none: the caller did not ask [`Scheme::needs_extent`].
pub(crate) fn tensor_extent(context: &Context) -> Extent {
    context.extent.expect("a scheme that needs the tensor's extent is given one")
}

/// A way to combine values into one.
trait Combine {
    /// Takes a value into a lane; drops it if it is NaN.
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
