//! The one loop of the packed integers, over any [`Lanes`], and the choice of them.
//!
//! A panel meets up to eight rows of inputs at a time, whose codes were laid side by side ([`Rows`]): each line of the
//! panel is loaded and unpacked once, and multiplied with four columns of every row. Sums of a step stay integers; then
//!
//! - out += (sum·scale)·input scale, where the offset is one zero: sum begins with −zero·(sum of the inputs);
//! - out += ((sum − inputs·zero)·scale)·input scale, where rows and groups have their zeros;
//! - out += (sum·scale − inputs·minimum)·input scale, where they have minimums.

use std::ops::Range;

use super::lanes::Lanes;
use super::layout::{Columns, Line, Offset, Panels, PerRow, Width};
use super::plain::Plain;
use super::rows::{Block, Rows};
use crate::backend::cpu::packed::PANEL;

#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;

/// An instruction set that the loop is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The baseline.
    Plain,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Those that this processor has, the fastest last.
    pub fn all() -> Vec<Level> {
        let mut all = vec![Level::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            all.extend(avx512.then_some(Level::Avx512));
        }
        all
    }

    /// The fastest.
    pub fn best() -> Level {
        *Level::all().last().expect("the baseline is always there")
    }
}

/// Some panels, to be multiplied with some rows.
pub struct Job<'a> {
    /// What divides the columns.
    pub columns: &'a Columns,
    /// Where the panels are.
    pub panels: &'a Panels,
    /// Which of them.
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
    /// Multiplies at a level of [`Level::all`].
    pub fn run(self, level: Level) {
        match level {
            Level::Plain => self.run_with::<Plain>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level is one that this processor has.
            Level::Avx512 => unsafe { self.run_avx512() },
        }
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

    /// Every block of rows meets a panel while it is in the nearest cache.
    #[inline(always)]
    fn run_steps<L: Lanes, const LINES: usize, const QUADS: usize>(self) {
        for (i, index) in self.range.clone().enumerate() {
            let (at, panel) = (i * PANEL, Panel::new(self.panels, self.columns, index));
            for block in self.rows.blocks() {
                let out = &mut self.out[block.first * self.stride + at..];
                let lanes = PANEL.min(self.width - at);
                match block.rows {
                    8 => write(panel.multiply::<L, LINES, QUADS, 8>(&block), out, self.stride, lanes),
                    4 => write(panel.multiply::<L, LINES, QUADS, 4>(&block), out, self.stride, lanes),
                    2 => write(panel.multiply::<L, LINES, QUADS, 2>(&block), out, self.stride, lanes),
                    _ => write(panel.multiply::<L, LINES, QUADS, 1>(&block), out, self.stride, lanes),
                }
            }
        }
    }
}

/// Writes the existing lanes.
#[inline(always)]
fn write<const R: usize>(values: [PerRow<f32>; R], out: &mut [f32], stride: usize, lanes: usize) {
    for (r, values) in values.iter().enumerate() {
        out[r * stride..][..lanes].copy_from_slice(&values[..lanes]);
    }
}

/// One panel.
#[derive(Clone, Copy)]
struct Panel<'a> {
    lines: &'a [Line],
    panels: &'a Panels,
    /// The entry of its first group in scales and offsets.
    entry: usize,
    /// Steps of a group.
    group: usize,
}

impl<'a> Panel<'a> {
    #[inline(always)]
    fn new(panels: &'a Panels, columns: &Columns, index: usize) -> Panel<'a> {
        let lines = &panels.lines[index * columns.lines()..][..columns.lines()];
        Panel { lines, panels, entry: index * columns.groups(), group: columns.group }
    }

    /// The products of R rows of inputs with the rows of the panel.
    #[inline(always)]
    fn multiply<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize>(
        &self,
        block: &Block,
    ) -> [PerRow<f32>; R] {
        let lines = self.lines.as_chunks::<LINES>().0;
        let inputs = block.codes.as_chunks::<R>().0.as_chunks::<QUADS>().0;
        let (scales, sums) = (block.scales.as_chunks::<R>().0, block.sums.as_chunks::<R>().0);
        let mut out = [L::splat(0.0); R];
        let (mut entry, mut left) = (self.entry, 0);
        let mut scale = L::splat(0.0);
        for (((lines, inputs), scales), sums) in lines.iter().zip(inputs).zip(scales).zip(sums) {
            if left == 0 {
                scale = self.panels.scales.load::<L>(entry);
                (entry, left) = (entry + 1, self.group);
            }
            left -= 1;
            let values = self.step::<L, LINES, QUADS, R>(entry - 1, scale, lines, inputs, sums);
            for r in 0..R {
                out[r] = L::add(out[r], L::mul(values[r], L::splat(scales[r])));
            }
        }
        out.map(L::store)
    }

    /// A step's products, input scales aside.
    #[inline(always)]
    fn step<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize>(
        &self,
        entry: usize,
        scale: L::Floats,
        lines: &[Line; LINES],
        inputs: &[[i32; R]; QUADS],
        sums: &[i32; R],
    ) -> [L::Floats; R] {
        let mut values = [scale; R];
        match &self.panels.offset {
            Offset::Zero(_) => {
                let dots = dots::<L, LINES, QUADS, R>(lines, inputs, sums);
                for r in 0..R {
                    values[r] = L::mul(dots[r], scale);
                }
            }
            Offset::Zeros(zeros) => {
                let zero = L::floats_of_u8(&zeros[entry]);
                let dots = dots::<L, LINES, QUADS, R>(lines, inputs, &[0; R]);
                for r in 0..R {
                    let excess = L::mul(L::splat(sums[r] as f32), zero);
                    values[r] = L::mul(L::sub(dots[r], excess), scale);
                }
            }
            Offset::Minimums(minimums) => {
                let minimum = minimums.load::<L>(entry);
                let dots = dots::<L, LINES, QUADS, R>(lines, inputs, &[0; R]);
                for r in 0..R {
                    let excess = L::mul(L::splat(sums[r] as f32), minimum);
                    values[r] = L::sub(L::mul(dots[r], scale), excess);
                }
            }
        }
        values
    }
}

/// Σ code·input of a step for each row of inputs, upon `bases`.
#[inline(always)]
fn dots<L: Lanes, const LINES: usize, const QUADS: usize, const R: usize>(
    lines: &[Line; LINES],
    inputs: &[[i32; R]; QUADS],
    bases: &[i32; R],
) -> [L::Floats; R] {
    let mut dots = [L::start(0); R];
    for r in 0..R {
        dots[r] = L::start(bases[r]);
    }
    for (l, line) in lines.iter().enumerate() {
        if LINES == QUADS {
            let codes = L::bytes(line);
            for r in 0..R {
                dots[r] = L::add_bytes(dots[r], codes, inputs[l][r]);
            }
        } else {
            let [low, high] = L::nibbles(line);
            for r in 0..R {
                dots[r] = L::add_nibbles(dots[r], low, inputs[2 * l][r]);
            }
            for r in 0..R {
                dots[r] = L::add_nibbles(dots[r], high, inputs[2 * l + 1][r]);
            }
        }
    }
    let mut sums = [L::splat(0.0); R];
    for r in 0..R {
        sums[r] = L::finish(dots[r], bases[r]);
    }
    sums
}
