//! The main loop of the packed integers, over any [`IntLanes`], and the choice of the instruction set.
//!
//! Two panels are multiplied with up to four rows of inputs at a time, whose codes are laid side by side
//! ([`InputRows`]). Each line of a panel is loaded and unpacked once and multiplied with four columns of every row.
//! Sums of a step stay integers; then
//!
//! - out += (sum·scale)·input scale, if the offset is one zero: sum begins with −zero·(sum of the inputs);
//!
//! - out += ((sum − inputs·zero)·scale)·input scale, if rows and groups have their own zeros;
//!
//! - out += (sum·scale − inputs·minimum)·input scale, if they have minimums.

// Loops count rows and panels, with one index for several arrays: the compiler unrolls this form into registers.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::lanes::IntLanes;
use super::layout::{ColumnLayout, Offset, PanelGrid, Width};
use super::line::{Line, PerRow};
use super::plain::PlainInt;
use super::rows::{InputRows, RowBlock};
use crate::backend::cpu::level::Level;
use crate::backend::cpu::packed::PANEL;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2Int, avx512::Avx512Int};

/// The product of some panels and some rows.
pub(crate) struct IntegerProduct<'a> {
    /// Division of the columns.
    pub columns: &'a ColumnLayout,
    /// Lines of the panels.
    pub lines: &'a [Line],
    /// Scales and offsets of the codes.
    pub grid: &'a PanelGrid,
    /// Numbers of the panels in the grid.
    pub range: Range<usize>,
    /// Rows of inputs.
    pub rows: &'a InputRows,
    /// Output [rows, stride], from the first column of the range.
    pub out: &'a mut [f32],
    /// Distance between rows of the output, in columns.
    pub stride: usize,
    /// Columns of the range: the last panel may be short.
    pub width: usize,
}

impl IntegerProduct<'_> {
    /// Multiplies at a level that this processor supports.
    pub(crate) fn run(self, level: Level) {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor supports the level.
            Level::Avx512 { vnni: true, .. } => unsafe { self.run_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor supports the level, and AVX2 is part of AVX-512.
            Level::Avx2 | Level::Avx512 { .. } => unsafe { self.run_avx2() },
            _ => self.run_with::<PlainInt>(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    fn run_avx2(self) {
        self.run_with::<Avx2Int>();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn run_avx512(self) {
        self.run_with::<Avx512Int>();
    }

    /// Selects the numbers of lines and of fours of columns in a step.
    #[inline(always)]
    fn run_with<L: IntLanes>(self) {
        match (self.columns.width, self.columns.step) {
            (Width::Nibble, 32) => self.run_steps::<L, 4, 8>(),
            (Width::Nibble, _) => self.run_steps::<L, 2, 4>(),
            (Width::Byte, 32) => self.run_steps::<L, 8, 8>(),
            (Width::Byte, _) => self.run_steps::<L, 4, 4>(),
        }
    }

    /// Multiplies every block of rows with two panels while they are in the nearest cache; an odd last panel is
    /// multiplied alone.
    #[inline(always)]
    fn run_steps<L: IntLanes, const LINES: usize, const QUADS: usize>(mut self) {
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
    fn run_panels<L: IntLanes, const LINES: usize, const QUADS: usize, const P: usize>(
        &mut self,
        panels: &[Panel; P],
        at: usize,
    ) {
        for block in self.rows.blocks() {
            let out = &mut self.out[block.first * self.stride + at..];
            let mut tile = IntTile { panels, block, out, stride: self.stride, width: self.width - at };
            match block.rows {
                4 => tile.multiply::<L, LINES, QUADS, 4>(),
                2 => tile.multiply::<L, LINES, QUADS, 2>(),
                _ => tile.multiply::<L, LINES, QUADS, 1>(),
            }
        }
    }
}

/// One panel of a product.
#[derive(Clone, Copy)]
struct Panel<'a> {
    lines: &'a [Line],
    grid: &'a PanelGrid,
    /// Entry of its first group in the grid.
    entry: usize,
    /// Steps per group.
    group: usize,
}

impl<'a> Panel<'a> {
    /// Returns panel `i` of a product.
    #[inline(always)]
    fn new(job: &IntegerProduct<'a>, i: usize) -> Panel<'a> {
        let columns = job.columns;
        let lines = &job.lines[i * columns.lines()..][..columns.lines()];
        Panel { lines, grid: job.grid, entry: (job.range.start + i) * columns.groups(), group: columns.group }
    }
}

/// R rows of inputs and P panels; their products stay in registers while the loop runs over the columns.
struct IntTile<'a, const P: usize> {
    panels: &'a [Panel<'a>; P],
    block: RowBlock<'a>,
    /// Output from the first row and column of the tile.
    out: &'a mut [f32],
    stride: usize,
    /// Columns from there to the last.
    width: usize,
}

impl<const P: usize> IntTile<'_, P> {
    #[inline(always)]
    fn multiply<L: IntLanes, const LINES: usize, const QUADS: usize, const R: usize>(&mut self) {
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

    /// Returns a step's products without the input scales.
    #[inline(always)]
    fn step<L: IntLanes, const LINES: usize, const QUADS: usize, const R: usize>(
        &self,
        group: usize,
        scale: [L::Floats; P],
        lines: [&[Line; LINES]; P],
        inputs: &[[i32; R]; QUADS],
        sums: &[i32; R],
    ) -> [[L::Floats; R]; P] {
        // All panels of a weight have the same kind of offset.
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

/// Returns the lines of a step. (`array::map` and `from_fn` are not always inlined here.)
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

/// Returns `bases` + Σ code·input of a step, for each row of inputs and each panel.
#[inline(always)]
fn dots<L: IntLanes, const LINES: usize, const QUADS: usize, const R: usize, const P: usize>(
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
