//! Rows of inputs as the kernel reads them: in blocks of 4, 2 and 1 rows, the codes of each four columns side by side, so
//! that the inputs of all rows of a block are at small distances from one address.

use std::ops::Range;

use crate::backend::cpu::packed::Inputs;

/// The most rows of a block.
const BLOCK: usize = 4;

/// Buffers for some rows, kept from one use to the next.
#[derive(Debug, Default)]
pub struct Rows {
    /// Rows held.
    count: usize,
    /// Scales per row.
    steps: usize,
    /// Fours of codes per row.
    quads: usize,
    /// For each block of R rows, [quads, R].
    codes: Vec<i32>,
    /// For each block of R rows, [steps, R].
    scales: Vec<f32>,
    /// As the scales: the sums of the inputs' codes, times what was asked for.
    sums: Vec<i32>,
}

/// The slices of a block.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The first of its rows.
    pub first: usize,
    /// R: 4, 2 or 1.
    pub rows: usize,
    /// [quads, R].
    pub codes: &'a [i32],
    /// [steps, R].
    pub scales: &'a [f32],
    /// [steps, R].
    pub sums: &'a [i32],
}

/// The rows of the block that begins where so many are left.
fn block_rows(left: usize) -> usize {
    if left >= BLOCK { BLOCK } else { 1 << left.ilog2() }
}

/// Where blocks begin and how many rows they have.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let rows = (first < count).then(|| block_rows(count - first))?;
        first += rows;
        Some((first - rows, rows))
    })
}

impl Rows {
    /// Takes rows of `x`; sums are multiplied by `factor`.
    pub fn fill(&mut self, x: &Inputs, rows: Range<usize>, factor: i32) {
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

    /// The blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        blocks(self.count).map(|(first, rows)| Block {
            first,
            rows,
            codes: &self.codes[first * self.quads..][..rows * self.quads],
            scales: &self.scales[first * self.steps..][..rows * self.steps],
            sums: &self.sums[first * self.steps..][..rows * self.steps],
        })
    }
}

/// Writes values `stride` apart.
#[inline(always)]
fn scatter<T>(values: impl Iterator<Item = T>, out: &mut [T], stride: usize) {
    for (out, value) in out.iter_mut().step_by(stride).zip(values) {
        *out = value;
    }
}
