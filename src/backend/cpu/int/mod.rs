//! Linear layers over packed integers: the weights stay as small as they were stored, inputs are rounded to 8 bits per
//! group of columns, and products are summed in integers.
//!
//! `packing` converts [`QTensor`](crate::numerics::QTensor)s to panels, and `layout` defines their memory layout.
//! `kernel` multiplies them with the operations of `lanes`, which `plain` and one file per instruction set implement.
//! All implementations give the same bits.
//!
//! The same panels can be unpacked to f32 ([`unpackable`]) for inputs that must not be rounded; the values equal those
//! of [`QTensor::dequantize`](crate::numerics::QTensor::dequantize).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
mod lanes;
mod layout;
mod line;
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

use self::kernel::IntegerProduct;
use self::layout::{ColumnLayout, Offset, PanelGrid};
use self::line::Line;
use self::rows::InputRows;
use super::level::Level;
use super::packed::{InputForm, Inputs, PANEL, PackedWeight, UnpackPanels};
use super::pages::Pages;
use crate::backend::Matrix;
use crate::error::Result;
use crate::numerics::{QTensor, Weight, simd};

/// Approximate number of weights that a thread reads and packs at once.
const WEIGHTS_AT_ONCE: usize = 1 << 20;

/// Rows of inputs that are laid out at once; a panel is read from memory once for all of them.
const ROWS_AT_ONCE: usize = 96;

thread_local! {
    static ROWS: RefCell<InputRows> = RefCell::default();
}

/// A weight of packed integers.
struct PackedInt {
    shape: [usize; 2],
    columns: ColumnLayout,
    /// Lines [panels, lines].
    lines: Pages,
    /// Grids of `panels_each` panels each; the last grid may have fewer.
    grids: Vec<PanelGrid>,
    panels_each: usize,
    level: Level,
}

/// Packs a matrix for inputs of 8 bits; returns `None` if its scheme is not one of packed integers.
pub(super) fn pack(matrix: &dyn Matrix, level: Level) -> Result<Option<Box<dyn PackedWeight>>> {
    Ok(PackedInt::read(matrix, level)?.map(|packed| Box::new(packed) as _))
}

/// Packs a matrix for inputs in f32; returns `None` if its scheme is not one of packed integers.
pub(super) fn unpackable(matrix: &dyn Matrix, level: Level) -> Result<Option<Box<dyn UnpackPanels>>> {
    Ok(PackedInt::read(matrix, level)?.map(|packed| Box::new(packed) as _))
}

/// Reads quantized rows; returns `None` if they are dense.
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
        columns: ColumnLayout,
        panels_each: usize,
    ) -> Result<Option<PackedInt>> {
        let shape @ [rows, _] = matrix.shape();
        let mut lines = Pages::zeroed(rows.div_ceil(PANEL) * columns.lines())?;
        let chunks = lines.lines_mut().par_chunks_mut(panels_each * columns.lines());
        let grids: Result<Option<Vec<PanelGrid>>> = chunks
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
        self.lines.bytes() + self.grids.iter().map(PanelGrid::bytes).sum::<usize>()
    }

    /// Returns the factor for sums of inputs; the kernel starts its sums with the result.
    fn sum_factor(&self) -> i32 {
        match self.grids.first().map(|grid| &grid.offset) {
            Some(Offset::Zero(zero)) => -i32::from(*zero),
            _ => 1,
        }
    }

    /// Returns the lines of some panels.
    fn lines(&self, panels: Range<usize>) -> &[Line] {
        let each = self.columns.lines();
        &self.lines.lines()[panels.start * each..panels.end * each]
    }

    /// Multiplies laid-out rows with panels; `out` begins at the first of the rows.
    fn multiply_rows(&self, rows: &InputRows, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let mut panel = panels.start;
        while panel < panels.end {
            let (chunk, first) = (panel / self.panels_each, panel % self.panels_each);
            let count = (self.panels_each - first).min(panels.end - panel);
            let job = IntegerProduct {
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

impl PackedWeight for PackedInt {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        PackedInt::bytes(self)
    }

    fn form(&self) -> InputForm {
        InputForm::Int8 { group: self.columns.step }
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

impl UnpackPanels for PackedInt {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        PackedInt::bytes(self)
    }

    fn unpack(&self, panel: usize, out: &mut [f32]) {
        let (chunk, index) = (panel / self.panels_each, panel % self.panels_each);
        let (columns, lines) = (&self.columns, self.lines(panel..panel + 1));
        simd::dispatch(unpack::UnpackKernel {
            columns,
            lines,
            grid: &self.grids[chunk],
            index,
            out: &mut *out,
        });
        let lanes = PANEL.min(self.shape[0] - panel * PANEL);
        for row in out.as_chunks_mut::<PANEL>().0 {
            row[lanes..].fill(0.0);
        }
    }
}
