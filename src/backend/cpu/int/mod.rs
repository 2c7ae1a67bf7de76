//! Linear layers over packed integers: the weights stay as small as they were stored, inputs are rounded to 8 bits per
//! group of columns, and products are summed in integers.
//!
//! `packing` turns [`QTensor`](crate::numerics::QTensor)s into panels, `layout` says how these lie in memory, `kernel` multiplies
//! them over `lanes`, which `plain` and one file per instruction set implement. All of them give the same bits.
//!
//! The same panels show themselves in f32 ([`unpackable`]), equal to what
//! [`QTensor::dequantize`](crate::numerics::QTensor::dequantize) gives, for inputs that must not be rounded.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
mod lanes;
mod layout;
mod packing;
mod plain;
mod rows;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod unpack;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use self::kernel::Job;
use self::layout::{Columns, Grid, Line, Offset};
use self::rows::Rows;
use super::level::Level;
use super::packed::{Form, Inputs, PANEL, Packed, Unpack};
use super::pages::Pages;
use crate::backend::Matrix;
use crate::error::Result;
use crate::numerics::{QTensor, Weight, simd};

/// About how many weights are read and packed at once by a thread.
const WEIGHTS_AT_ONCE: usize = 1 << 20;

/// Rows of inputs that are laid out at once: a panel is read from memory once for them.
const ROWS_AT_ONCE: usize = 96;

thread_local! {
    static ROWS: RefCell<Rows> = RefCell::default();
}

/// A packed weight.
struct PackedInt {
    shape: [usize; 2],
    columns: Columns,
    /// [panels, lines].
    lines: Pages,
    /// Each of `panels_each` panels, the last of those that are left.
    grids: Vec<Grid>,
    panels_each: usize,
    level: Level,
}

/// Packs a matrix for inputs of 8 bits; `None` where its scheme is not one of packed integers.
pub(super) fn pack(matrix: &dyn Matrix, level: Level) -> Result<Option<Box<dyn Packed>>> {
    Ok(PackedInt::read(matrix, level)?.map(|packed| Box::new(packed) as _))
}

/// The same for inputs in f32.
pub(super) fn unpackable(matrix: &dyn Matrix, level: Level) -> Result<Option<Box<dyn Unpack>>> {
    Ok(PackedInt::read(matrix, level)?.map(|packed| Box::new(packed) as _))
}

/// Rows as stored; `None` where they are dense.
fn read(matrix: &dyn Matrix, rows: Range<usize>) -> Result<Option<QTensor>> {
    Ok(match matrix.read(rows)? {
        Weight::Quantized(q) => Some(q),
        Weight::Dense(_) => None,
    })
}

impl PackedInt {
    fn read(matrix: &dyn Matrix, level: Level) -> Result<Option<PackedInt>> {
        let [rows, cols] = matrix.shape();
        if rows == 0 || cols == 0 {
            return Ok(None);
        }
        match read(matrix, 0..1)?.as_ref().and_then(packing::columns) {
            Some(columns) => {
                PackedInt::pack(matrix, level, columns, (WEIGHTS_AT_ONCE / (PANEL * cols)).max(1))
            }
            None => Ok(None),
        }
    }

    fn pack(
        matrix: &dyn Matrix,
        level: Level,
        columns: Columns,
        panels_each: usize,
    ) -> Result<Option<PackedInt>> {
        let shape @ [rows, _] = matrix.shape();
        let mut lines = Pages::zeroed(rows.div_ceil(PANEL) * columns.lines())?;
        let chunks = lines.lines_mut().par_chunks_mut(panels_each * columns.lines());
        let grids: Result<Option<Vec<Grid>>> = chunks
            .enumerate()
            .map(|(i, lines)| {
                let first = i * panels_each * PANEL;
                let q = read(matrix, first..rows.min(first + panels_each * PANEL))?;
                Ok(q.map(|q| packing::pack(&q, &columns, lines)))
            })
            .collect();
        Ok(grids?.map(|grids| PackedInt { shape, columns, lines, grids, panels_each, level }))
    }

    fn bytes(&self) -> usize {
        self.lines.bytes() + self.grids.iter().map(Grid::bytes).sum::<usize>()
    }

    /// What the sums of inputs are multiplied by, so that a kernel can begin with them.
    fn sum_factor(&self) -> i32 {
        match self.grids.first().map(|grid| &grid.offset) {
            Some(Offset::Zero(zero)) => -i32::from(*zero),
            _ => 1,
        }
    }

    /// Lines of some panels.
    fn lines(&self, panels: Range<usize>) -> &[Line] {
        let each = self.columns.lines();
        &self.lines.lines()[panels.start * each..panels.end * each]
    }

    /// Multiplies rows that were laid out with panels; `out` begins at the first of the rows.
    fn multiply_rows(&self, rows: &Rows, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let mut panel = panels.start;
        while panel < panels.end {
            let (chunk, first) = (panel / self.panels_each, panel % self.panels_each);
            let count = (self.panels_each - first).min(panels.end - panel);
            let job = Job {
                columns: &self.columns,
                lines: self.lines(panel..panel + count),
                grid: &self.grids[chunk],
                range: first..first + count,
                rows,
                out: &mut out[(panel - panels.start) * PANEL..],
                stride,
                width: self.shape[0].min((panel + count) * PANEL) - panel * PANEL,
            };
            job.run(self.level);
            panel += count;
        }
    }
}

impl Packed for PackedInt {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        PackedInt::bytes(self)
    }

    fn form(&self) -> Form {
        Form::Int8 { group: self.columns.step }
    }

    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        ROWS.with_borrow_mut(|buffer| {
            for first in rows.clone().step_by(ROWS_AT_ONCE) {
                buffer.fill(x, first..rows.end.min(first + ROWS_AT_ONCE), self.sum_factor());
                self.multiply_rows(buffer, panels.clone(), &mut out[(first - rows.start) * stride..], stride);
            }
        });
    }
}

impl Unpack for PackedInt {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        PackedInt::bytes(self)
    }

    fn unpack(&self, panel: usize, out: &mut [f32]) {
        let (chunk, index) = (panel / self.panels_each, panel % self.panels_each);
        let (columns, lines) = (&self.columns, self.lines(panel..panel + 1));
        simd::dispatch(unpack::Unpack { columns, lines, grid: &self.grids[chunk], index, out: &mut *out });
        let lanes = PANEL.min(self.shape[0] - panel * PANEL);
        for row in out.as_chunks_mut::<PANEL>().0 {
            row[lanes..].fill(0.0);
        }
    }
}
