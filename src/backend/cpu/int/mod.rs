//! Linear layers over packed integers: the weights stay as small as they were stored, inputs are rounded to 8 bits per
//! group of columns, and products are summed in integers.
//!
//! `packing` turns [`QTensor`](crate::tensor::QTensor)s into panels, `layout` says how these lie in memory, `kernel` multiplies
//! them over `lanes`, which `plain` and one file per instruction set implement. All of them give the same bits.
//!
//! The same panels show themselves in f32 ([`unpackable`]), equal to what
//! [`QTensor::dequantize`](crate::tensor::QTensor::dequantize) gives, for inputs that must not be rounded.

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

use self::kernel::{Job, Level};
use self::layout::{Columns, Offset, Panels};
use self::rows::Rows;
use super::packed::{Form, Inputs, PANEL, Packed, Unpack};
use crate::backend::Matrix;
use crate::error::Result;
use crate::numerics::simd;
use crate::tensor::{QTensor, Weight};

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
    /// `panels_each` panels, the last may hold fewer.
    chunks: Vec<Panels>,
    panels_each: usize,
    level: Level,
}

/// Packs a matrix for inputs of 8 bits; `None` where its scheme is not one of packed integers.
pub(super) fn pack(matrix: &dyn Matrix) -> Result<Option<Box<dyn Packed>>> {
    Ok(PackedInt::read(matrix)?.map(|packed| Box::new(packed) as _))
}

/// The same for inputs in f32.
pub(super) fn unpackable(matrix: &dyn Matrix) -> Result<Option<Box<dyn Unpack>>> {
    Ok(PackedInt::read(matrix)?.map(|packed| Box::new(packed) as _))
}

/// Rows as stored; `None` where they are dense.
fn read(matrix: &dyn Matrix, rows: Range<usize>) -> Result<Option<QTensor>> {
    Ok(match matrix.read(rows)? {
        Weight::Quantized(q) => Some(q),
        Weight::Dense(_) => None,
    })
}

impl PackedInt {
    fn read(matrix: &dyn Matrix) -> Result<Option<PackedInt>> {
        let shape @ [rows, cols] = matrix.shape();
        if rows == 0 || cols == 0 {
            return Ok(None);
        }
        let Some(columns) = read(matrix, 0..1)?.as_ref().and_then(packing::columns) else { return Ok(None) };
        let panels_each = (WEIGHTS_AT_ONCE / (PANEL * cols)).max(1);
        let rows_each = panels_each * PANEL;
        let chunks: Result<Option<Vec<Panels>>> = (0..rows.div_ceil(rows_each))
            .into_par_iter()
            .map(|i| {
                let q = read(matrix, i * rows_each..rows.min((i + 1) * rows_each))?;
                Ok(q.map(|q| packing::pack(&q, &columns)))
            })
            .collect();
        let level = Level::best();
        Ok(chunks?.map(|chunks| PackedInt { shape, columns, chunks, panels_each, level }))
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(Panels::bytes).sum()
    }

    /// What the sums of inputs are multiplied by, so that a kernel can begin with them.
    fn sum_factor(&self) -> i32 {
        match self.chunks.first().map(|panels| &panels.offset) {
            Some(Offset::Zero(zero)) => -i32::from(*zero),
            _ => 1,
        }
    }

    /// Multiplies rows that were laid out with panels; `out` begins at the first of the rows.
    fn multiply_rows(&self, rows: &Rows, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let mut panel = panels.start;
        while panel < panels.end {
            let (chunk, first) = (panel / self.panels_each, panel % self.panels_each);
            let count = (self.panels_each - first).min(panels.end - panel);
            let width = self.shape[0].min((panel + count) * PANEL) - panel * PANEL;
            let job = Job {
                columns: &self.columns,
                panels: &self.chunks[chunk],
                range: first..first + count,
                rows,
                out: &mut out[(panel - panels.start) * PANEL..],
                stride,
                width,
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
        simd::dispatch(unpack::Unpack {
            panels: &self.chunks[chunk],
            columns: &self.columns,
            index,
            out: &mut *out,
        });
        let lanes = PANEL.min(self.shape[0] - panel * PANEL);
        for row in out.as_chunks_mut::<PANEL>().0 {
            row[lanes..].fill(0.0);
        }
    }
}
