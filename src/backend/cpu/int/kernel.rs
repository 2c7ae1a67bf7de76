//! The one loop of the packed integers, over any [`Lanes`], and the choice of them.
//!
//! Two panels meet up to four rows of inputs at a time, whose codes were laid side by side ([`Rows`]): each line of a
//! panel is loaded and unpacked once, and multiplied with four columns of every row. Sums of a step stay integers; then
//!
//! - out += (sum·scale)·input scale, where the offset is one zero: sum begins with −zero·(sum of the inputs);
//! - out += ((sum − inputs·zero)·scale)·input scale, where rows and groups have their zeros;
//! - out += (sum·scale − inputs·minimum)·input scale, where they have minimums.

// Rows and panels are counted, several arrays by one number: that is what the compiler unrolls into registers.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::lanes::Lanes;
use super::layout::{Columns, Grid, Line, Offset, PerRow, Width};
use super::plain::Plain;
use super::rows::{Block, Rows};
use crate::backend::cpu::level::Level;
use crate::backend::cpu::packed::PANEL;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Some panels, to be multiplied with some rows.
pub struct Job<'a> {
    /// What divides the columns.
    pub columns: &'a Columns,
    /// Those of the panels.
    pub lines: &'a [Line],
    /// What their codes are scaled and offset with.
    pub grid: &'a Grid,
    /// Their numbers there.
    pub range: Range<usize>,
    /// Inputs.
    pub rows: &'a Rows,
    /// [rows, stride], from the first column that the range gives.
    pub out: &'a mut [f32],
    /// Columns from one row of the output to the next.
    pub stride: usize,
    /// Columns that the range gives: the last panel may be short.
    pub width: usize,
}

impl Job<'_> {
    /// Multiplies at a level that this processor has.
    pub fn run(self, level: Level) {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the level.
            Level::Avx512 { vnni: true, .. } => unsafe { self.run_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and AVX2 is part of AVX-512.
            Level::Avx2 | Level::Avx512 { .. } => unsafe { self.run_avx2() },
            _ => self.run_with::<Plain>(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    fn run_avx2(self) {
        self.run_with::<Avx2>();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn run_avx512(self) {
        self.run_with::<Avx512>();
    }

    /// Chooses the numbers of lines and of fours of columns in a step.
    #[inline(always)]
    fn run_with<L: Lanes>(self) {
        match (self.columns.width, self.columns.step) {
            (Width::Nibble, 32) => self.run_steps::<L, 4, 8>(),
            (Width::Nibble, _) => self.run_steps::<L, 2, 4>(),
            (Width::Byte, 32) => self.run_steps::<L, 8, 8>(),
            (Width::Byte, _) => self.run_steps::<L, 4, 4>(),
        }
    }

    /// Every block of rows meets two panels while they are in the nearest cache; an odd last panel comes alone.
    #[inline(always)]
    fn run_steps<L: Lanes, const LINES: usize, const QUADS: usize>(mut self) {
        let panels = self.range.len();
        for i in (0..panels).step_by(2) {
            let first = Panel::new(&self, i);
            if i + 1 < panels {
                let second = Panel::new(&self, i + 1);
                self.run_panels::<L, LINES, QUADS, 2>(&[first, second], i * PANEL);
            } else {
                self.run_panels::<L, LINES, QUADS, 1>(&[first], i * PANEL);
            }
        }
    }

    #[inline(always)]
    fn run_panels<L: Lanes, const LINES: usize, const QUADS: usize, const P: usize>(
        &mut self,
        panels: &[Panel; P],
        at: usize,
    ) {
        for block in self.rows.blocks() {
            let out = &mut self.out[block.first * self.stride + at..];
            let mut tile = Tile { panels, block, out, stride: self.stride, width: self.width - at };
            match block.rows {
                4 => tile.multiply::<L, LINES, QUADS, 4>(),
                2 => tile.multiply::<L, LINES, QUADS, 2>(),
                _ => tile.multiply::<L, LINES, QUADS, 1>(),
            }
        }
    }
}

/// One panel.
#[derive(Clone, Copy)]
struct Panel<'a> {
    lines: &'a [Line],
    grid: &'a Grid,
    /// The entry of its first group in the grid.
    entry: usize,
    /// Steps of a group.
    group: usize,
}

impl<'a> Panel<'a> {
    /// The `i`-th of a job.
    #[inline(always)]
    fn new(job: &Job<'a>, i: usize) -> Panel<'a> {
        let columns = job.columns;
        let lines = &job.lines[i * columns.lines()..][..columns.lines()];
        Panel { lines, grid: job.grid, entry: (job.range.start + i) * columns.groups(), group: columns.group }
    }
}

/// R rows of inputs and P panels, whose products stay in registers while the loop runs over the columns.
struct Tile<'a, const P: usize> {
    panels: &'a [Panel<'a>; P],
    block: Block<'a>,
    /// From the first row and column of the tile.
    out: &'a mut [f32],
    stride: usize,
    /// Columns from there to the last.
    width: usize,
}

impl<const P: usize> Tile<'_, P> {
    #[inline(always)]
    fn multiply<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize>(&mut self) {
        let inputs = self.block.codes.as_chunks::<R>().0.as_chunks::<QUADS>().0;
        let steps = inputs.len();
        let mut lines: [&[[Line; LINES]]; P] = [&[]; P];
        for p in 0..P {
            lines[p] = &self.panels[p].lines.as_chunks().0[..steps];
        }
        let scales = &self.block.scales.as_chunks::<R>().0[..steps];
        let sums = &self.block.sums.as_chunks::<R>().0[..steps];
        let mut out = [[L::splat(0.0); R]; P];
        let mut weight = [L::splat(0.0); P];
        let (mut group, mut left) = (0, 0);
        for step in 0..steps {
            if left == 0 {
                for p in 0..P {
                    weight[p] = self.panels[p].grid.scales.load::<L>(self.panels[p].entry + group);
                }
                (group, left) = (group + 1, self.panels[0].group);
            }
            left -= 1;
            let lines = each_line(&lines, step);
            let values =
                self.step::<L, LINES, QUADS, R>(group - 1, weight, lines, &inputs[step], &sums[step]);
            for r in 0..R {
                let scale = L::splat(scales[step][r]);
                for p in 0..P {
                    out[p][r] = L::add(out[p][r], L::mul(values[p][r], scale));
                }
            }
        }
        for p in 0..P {
            for r in 0..R {
                self.write(p, r, L::store(out[p][r]));
            }
        }
    }

    /// Writes the existing lanes.
    #[inline(always)]
    fn write(&mut self, p: usize, r: usize, values: PerRow<f32>) {
        let out = &mut self.out[r * self.stride + p * PANEL..];
        let lanes = self.width - p * PANEL;
        match out.first_chunk_mut() {
            Some(out) if lanes >= PANEL => *out = values,
            _ => out[..lanes].copy_from_slice(&values[..lanes]),
        }
    }

    /// A step's products, input scales aside.
    #[inline(always)]
    fn step<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize>(
        &self,
        group: usize,
        scale: [L::Floats; P],
        lines: [&[Line; LINES]; P],
        inputs: &[[i32; R]; QUADS],
        sums: &[i32; R],
    ) -> [[L::Floats; R]; P] {
        // The panels of a weight have one kind of offset.
        let bases = if matches!(self.panels[0].grid.offset, Offset::Zero(_)) { sums } else { &[0; R] };
        let mut values = dots::<L, LINES, QUADS, R, P>(lines, inputs, bases);
        for p in 0..P {
            let entry = self.panels[p].entry + group;
            match &self.panels[p].grid.offset {
                Offset::Zero(_) => {
                    for r in 0..R {
                        values[p][r] = L::mul(values[p][r], scale[p]);
                    }
                }
                Offset::Zeros(zeros) => {
                    let zero = L::floats_of_u8(&zeros[entry]);
                    for r in 0..R {
                        let excess = L::mul(L::splat_integer(sums[r]), zero);
                        values[p][r] = L::mul(L::sub(values[p][r], excess), scale[p]);
                    }
                }
                Offset::Minimums(minimums) => {
                    let minimum = minimums.load::<L>(entry);
                    for r in 0..R {
                        let excess = L::mul(L::splat_integer(sums[r]), minimum);
                        values[p][r] = L::sub(L::mul(values[p][r], scale[p]), excess);
                    }
                }
            }
        }
        values
    }
}

/// The lines of a step. (`array::map` and `from_fn` are not always inlined here.)
#[inline(always)]
fn each_line<'a, const LINES: usize, const P: usize>(
    lines: &[&'a [[Line; LINES]]; P],
    step: usize,
) -> [&'a [Line; LINES]; P] {
    let mut out = [&lines[0][step]; P];
    for p in 1..P {
        out[p] = &lines[p][step];
    }
    out
}

/// Σ code·input of a step for each row of inputs and each panel, upon `bases`.
#[inline(always)]
fn dots<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize, const P: usize>(
    lines: [&[Line; LINES]; P],
    inputs: &[[i32; R]; QUADS],
    bases: &[i32; R],
) -> [[L::Floats; R]; P] {
    let mut dots = [[L::start(0); R]; P];
    for r in 0..R {
        for dots in &mut dots {
            dots[r] = L::start(bases[r]);
        }
    }
    for l in 0..LINES {
        for p in 0..P {
            if LINES == QUADS {
                let codes = L::bytes(&lines[p][l]);
                for r in 0..R {
                    dots[p][r] = L::add_bytes(dots[p][r], codes, inputs[l][r]);
                }
            } else {
                let [low, high] = L::nibbles(&lines[p][l]);
                for r in 0..R {
                    dots[p][r] = L::add_nibbles(dots[p][r], low, inputs[2 * l][r]);
                    dots[p][r] = L::add_nibbles(dots[p][r], high, inputs[2 * l + 1][r]);
                }
            }
        }
    }
    let mut sums = [[L::splat(0.0); R]; P];
    for p in 0..P {
        for r in 0..R {
            sums[p][r] = L::finish(dots[p][r], bases[r]);
        }
    }
    sums
}
