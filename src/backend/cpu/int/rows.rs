//! Rows of inputs in the layout of the kernel: blocks of 4, 2 and 1 rows, with the codes of each four columns of all
//! rows side by side, so that the inputs of a block are at small distances from one address.

use std::ops::Range;

use crate::backend::cpu::packed::Inputs;

/// Maximum number of rows of a block.
const BLOCK: usize = 4;

/// Buffers for some rows, reused from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct InputRows {
    /// Number of rows.
    count: usize,
    /// Scales per row.
    steps: usize,
    /// Groups of four codes per row.
    quads: usize,
    /// Codes of each block of R rows, [quads, R].
    codes: Vec<i32>,
    /// Scales of each block of R rows, [steps, R].
    scales: Vec<f32>,
    /// Sums of the inputs' codes times a factor, in the layout of the scales.
    sums: Vec<i32>,
}

/// A block of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBlock<'a> {
    /// Its first row.
    pub first: usize,
    /// Number of rows R: 4, 2 or 1.
    pub rows: usize,
    /// Codes [quads, R].
    pub codes: &'a [i32],
    /// Scales [steps, R].
    pub scales: &'a [f32],
    /// Sums [steps, R].
    pub sums: &'a [i32],
}

/// Returns the number of rows of the next block if `left` rows are left.
fn block_rows(left: usize) -> usize {
    if left >= BLOCK { BLOCK } else { 1 << left.ilog2() }
}

/// Returns the first row and the number of rows of each block.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let rows = (first < count).then(|| block_rows(count - first))?;
        first += rows;
        Some((first - rows, rows))
    })
}

impl InputRows {
    /// Copies rows of `x`; sums are multiplied by `factor`.
    pub(crate) fn fill(&mut self, x: &Inputs, rows: Range<usize>, factor: i32) {
        let steps = x.scales.len() / x.rows.max(1);
        (self.count, self.steps, self.quads) = (rows.len(), steps, x.stride / 4);
        self.codes.resize(self.count * self.quads, 0);
        self.scales.resize(self.count * steps, 0.0);
        self.sums.resize(self.count * steps, 0);
        for (first, count) in blocks(self.count) {
            for r in 0..count {
                let row = rows.start + first + r;
                let codes = x.codes[row * x.stride..][..x.stride].as_chunks::<4>().0;
                let fours = codes.iter().map(|four| i32::from_ne_bytes(four.map(i8::cast_unsigned)));
                scatter(fours, &mut self.codes[first * self.quads..][r..], count);
                let scales = x.scales[row * steps..][..steps].iter().copied();
                scatter(scales, &mut self.scales[first * steps..][r..], count);
                let sums = x.sums[row * steps..][..steps].iter().map(|sum| sum * factor);
                scatter(sums, &mut self.sums[first * steps..][r..], count);
            }
        }
    }

    /// Returns the blocks, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = RowBlock<'_>> {
        blocks(self.count).map(|(first, rows)| RowBlock {
            first,
            rows,
            codes: &self.codes[first * self.quads..][..rows * self.quads],
            scales: &self.scales[first * self.steps..][..rows * self.steps],
            sums: &self.sums[first * self.steps..][..rows * self.steps],
        })
    }
}

/// Writes values at a distance of `stride`.
#[inline(always)]
fn scatter<T>(values: impl Iterator<Item = T>, out: &mut [T], stride: usize) {
    for (out, value) in out.iter_mut().step_by(stride).zip(values) {
        *out = value;
    }
}
