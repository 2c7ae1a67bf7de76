//! A linear's weights, and the learned parameters of their rounding.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, Zip};
use rayon::prelude::*;

use super::cell::{Clip, Entry, Group, Integers};
use crate::numerics::simd::{self, Kernel};
use crate::numerics::{Extent, Grid, QTensor, Scheme};

/// Rows that one task works on.
const ROWS: usize = 16;

/// The size of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// Of V.
    pub offset: f32,
    /// Of α and β.
    pub clip: f32,
}

/// Weights [rows, cols], their offsets V, and the clipping factors of their groups.
#[derive(Debug, Clone)]
pub(super) struct Rounding {
    scheme: Scheme,
    integers: Integers,
    shape: (usize, usize),
    w: Arc<[f32]>,
    v: Vec<f32>,
    /// True where the weight stays zero, [rows, cols].
    mask: Option<Arc<Array2<bool>>>,
    /// Smallest and largest value of each group, zero included.
    extents: Arc<[Extent]>,
    clips: Vec<Clip>,
}

impl Rounding {
    /// The start of training: every weight rounded to the nearest value of the min-max grid.
    pub(crate) fn new(w: ArrayView2<f32>, mask: Option<ArrayView2<bool>>, scheme: Scheme) -> Rounding {
        let shape = w.dim();
        let w: Arc<[f32]> = w.iter().copied().collect();
        let width = scheme.width(shape.1);
        let spans = w.chunks(shape.1.max(1)).flat_map(|row| row.chunks(width));
        let extents: Arc<[Extent]> =
            spans.map(|span| Extent::of(span).union(Extent { min: 0.0, max: 0.0 })).collect();
        let clips = vec![Clip { alpha: 1.0, beta: 1.0 }; extents.len()];
        let (integers, v) = (Integers::new(&scheme), vec![0.0; w.len()]);
        let mask = mask.map(|mask| Arc::new(mask.to_owned()));
        Rounding { integers, scheme, shape, v, mask, w, extents, clips }
    }

    /// (rows, cols).
    pub(crate) fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// W̃: the values of the codes, to the bit.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.w.len()];
        let (cols, groups) = (self.shape.1.max(1), self.groups());
        let rows = self.w.par_chunks(ROWS * cols).zip(self.v.par_chunks(ROWS * cols));
        let cells = self.extents.par_chunks(ROWS * groups).zip(self.clips.par_chunks(ROWS * groups));
        out.par_chunks_mut(ROWS * cols).zip(rows).zip(cells).for_each(|((out, (w, v)), (extents, clips))| {
            simd::dispatch(Values { spans: self.spans(), w, v, extents, clips, out });
        });
        out
    }

    /// Moves V, α and β against the signs of their gradients, given that of W̃; returns the new W̃.
    pub(crate) fn step(&mut self, mut gradient: Array2<f32>, steps: Steps) -> Vec<f32> {
        if let Some(mask) = &self.mask {
            // Without a gradient V stays 0 there, and so does the weight.
            Zip::from(&mut gradient).and(mask.as_ref()).for_each(|g, zero| *g = if *zero { 0.0 } else { *g });
        }
        let gradient = gradient.as_standard_layout();
        let gradient = gradient.as_slice().expect("standard layout is contiguous");
        let mut out = vec![0.0; self.w.len()];
        let (cols, groups, spans) = (self.shape.1.max(1), self.groups(), self.spans());
        let rows = self.w.par_chunks(ROWS * cols).zip(self.v.par_chunks_mut(ROWS * cols));
        let cells = self.extents.par_chunks(ROWS * groups).zip(self.clips.par_chunks_mut(ROWS * groups));
        let gradients = gradient.par_chunks(ROWS * cols).zip(out.par_chunks_mut(ROWS * cols));
        rows.zip(cells).zip(gradients).for_each(|(((w, v), (extents, clips)), (gradient, out))| {
            simd::dispatch(Step { spans, w, v, extents, clips, gradient, steps, out });
        });
        out
    }

    /// The codes, and the grid.
    pub(crate) fn codes(&self) -> QTensor {
        let offset = self.integers.offset();
        let (rows, cols) = self.shape;
        let entries: Vec<Entry> = self
            .extents
            .iter()
            .zip(&self.clips)
            .map(|(&extent, &clip)| self.integers.entry(extent, clip))
            .collect();
        let code = |(i, (w, v)): (usize, (&f32, &f32))| {
            let Entry { scale, zero } = entries[self.scheme.grid_index(i / cols, i % cols, cols)];
            (self.integers.round(w / scale + v, zero) + zero + offset) as u8
        };
        let codes = self.w.iter().zip(&self.v).enumerate().map(code).collect();
        let zero_points = match self.scheme.symmetric {
            true => Vec::new(),
            false => entries.iter().map(|entry| (entry.zero + offset) as u8).collect(),
        };
        let grid = Grid {
            scales: entries.iter().map(|entry| entry.scale).collect(),
            zero_points,
            global_scale: None,
        };
        QTensor::scalar(self.scheme, [rows, cols], codes, grid)
    }

    /// V, and (α, β) of each group.
    #[cfg(test)]
    pub(crate) fn learned(&self) -> [Vec<f32>; 2] {
        [self.v.clone(), self.clips.iter().flat_map(|clip| [clip.alpha, clip.beta]).collect()]
    }

    /// Groups of a row.
    fn groups(&self) -> usize {
        self.spans().groups.max(1)
    }

    fn spans(&self) -> Spans {
        let (cols, width) = (self.shape.1, self.scheme.width(self.shape.1));
        Spans { integers: self.integers, cols: cols.max(1), width, groups: cols.div_ceil(width) }
    }
}

/// The division of rows into groups.
#[derive(Debug, Clone, Copy)]
struct Spans {
    integers: Integers,
    cols: usize,
    width: usize,
    groups: usize,
}

struct Values<'a> {
    spans: Spans,
    w: &'a [f32],
    v: &'a [f32],
    extents: &'a [Extent],
    clips: &'a [Clip],
    out: &'a mut [f32],
}

impl Kernel for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Spans { integers, cols, width, groups } = self.spans;
        let rows = self.w.chunks(cols).zip(self.v.chunks(cols)).zip(self.out.chunks_mut(cols));
        let cells = self.extents.chunks(groups).zip(self.clips.chunks(groups));
        for (((w, v), out), (extents, clips)) in rows.zip(cells) {
            let spans = w.chunks(width).zip(v.chunks(width)).zip(out.chunks_mut(width));
            for (((w, v), out), (extent, clip)) in spans.zip(extents.iter().zip(clips)) {
                integers.values(integers.entry(*extent, *clip), w, v, out);
            }
        }
    }
}

struct Step<'a> {
    spans: Spans,
    w: &'a [f32],
    v: &'a mut [f32],
    extents: &'a [Extent],
    clips: &'a mut [Clip],
    gradient: &'a [f32],
    steps: Steps,
    out: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Spans { integers, cols, width, groups } = self.spans;
        let rows = self.w.chunks(cols).zip(self.v.chunks_mut(cols));
        let rows = rows.zip(self.gradient.chunks(cols)).zip(self.out.chunks_mut(cols));
        let cells = self.extents.chunks(groups).zip(self.clips.chunks_mut(groups));
        for ((((w, v), gradient), out), (extents, clips)) in rows.zip(cells) {
            let spans = w.chunks(width).zip(v.chunks_mut(width)).zip(gradient.chunks(width));
            let cells = extents.iter().zip(clips).zip(out.chunks_mut(width));
            for (((w, v), gradient), ((&extent, clip), out)) in spans.zip(cells) {
                let group = Group { w, entry: integers.entry(extent, *clip), low: extent.min * clip.beta };
                let sums = integers.descend(group, v, gradient, self.steps.offset);
                *clip = moved(*clip, integers.clip_gradient(extent, *clip, sums), self.steps.clip);
                integers.values(integers.entry(extent, *clip), w, v, out);
            }
        }
    }
}

/// One step against the sign of the gradient, within [0, 1].
#[inline(always)]
fn moved(clip: Clip, gradient: Clip, step: f32) -> Clip {
    let along = |factor: f32, gradient: f32| {
        let sign = if gradient == 0.0 || gradient.is_nan() { 0.0 } else { gradient.signum() };
        (factor - step * sign).clamp(0.0, 1.0)
    };
    Clip { alpha: along(clip.alpha, gradient.alpha), beta: along(clip.beta, gradient.beta) }
}
