//! Element-wise operations: activations, gates, sums, factors, caps; and their division among threads.

use rayon::prelude::*;

use super::functions;
use super::level::Level;
use super::simd::{Binary, LevelKernel, Simd, Unary};
use crate::backend::Activation;

/// Elements below which dividing the work costs more than it saves.
const WORTH_SHARING: usize = 50_000;
/// Minimum number of elements per share.
const SHARE: usize = 8_192;

/// Calls `work` on runs of whole rows of `out`, with the number of the first row; in parallel if there is enough work.
/// The division depends on the shape only.
pub(super) fn by_rows(out: &mut [f32], cols: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < WORTH_SHARING || rayon::current_num_threads() == 1 {
        return work(0, out);
    }
    let rows = SHARE.div_ceil(cols);
    out.par_chunks_mut(rows * cols).enumerate().for_each(|(i, run)| work(i * rows, run));
}

/// A function of one element.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Activation(Activation),
    /// The function factor·x.
    Scale(f32),
    /// The function cap·tanh(x/cap).
    SoftCap(f32),
}

impl Unary for Function {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::V) -> S::V {
        match self {
            Function::Activation(activation) => functions::activate(simd, x, activation),
            Function::Scale(factor) => simd.mul(x, simd.splat(factor)),
            Function::SoftCap(cap) => functions::soft_cap(simd, x, cap),
        }
    }
}

struct Apply<'a>(&'a mut [f32], Function);

impl LevelKernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.map(self.0, self.1);
    }
}

/// Applies a function to every element of x.
pub(super) fn apply(level: Level, x: &mut [f32], function: Function) {
    by_rows(x, 1, |_, run| level.run(Apply(run, function)));
}

struct Gate<'a> {
    x: &'a [f32],
    activation: Activation,
    width: usize,
    out: &'a mut [f32],
}

impl LevelKernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.out.chunks_exact_mut(self.width));
        for (x, out) in rows {
            let (gate, up) = x.split_at(self.width);
            simd.zip(gate, up, out, Gating(self.activation));
        }
    }
}

/// The function activation(a)·b.
#[derive(Clone, Copy)]
struct Gating(Activation);

impl Binary for Gating {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, a: S::V, b: S::V) -> S::V {
        simd.mul(functions::activate(simd, a, self.0), b)
    }
}

/// Computes activation(left half)·right half of every row: [rows, 2·width] → [rows, width].
pub(super) fn gate(level: Level, x: &[f32], activation: Activation, width: usize, out: &mut [f32]) {
    if width == 0 {
        return;
    }
    by_rows(out, width, |first, out| {
        let x = &x[2 * width * first..][..2 * out.len()];
        level.run(Gate { x, activation, width, out });
    });
}

/// Adds y to x.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: shapes differ");
    by_rows(x, 1, |first, run| {
        let y = &y[first..][..run.len()];
        run.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}

/// Copies columns offset..offset + width of x, [rows, cols], to `out`, [rows, width].
pub(super) fn columns(x: &[f32], cols: usize, offset: usize, out: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    by_rows(out, width, |first, run| {
        for (i, row) in run.chunks_exact_mut(width).enumerate() {
            row.copy_from_slice(&x[(first + i) * cols + offset..][..width]);
        }
    });
}
