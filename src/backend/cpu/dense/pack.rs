//! Rows of values → panels of lines, a bounded number of rows at a time.

use std::ops::Range;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::super::packed::PANEL;
use super::super::pages::Line;
use super::Kind;
use crate::backend::Matrix;
use crate::error::Result;
use crate::numerics::convert;
use crate::tensor::Weight;

/// Values that a thread reads at once.
const CHUNK: usize = 1 << 18;

/// Fills the panels of a matrix, `lines` lines each, from zeros.
pub(super) fn fill(matrix: &dyn Matrix, kind: Kind, lines: usize, out: &mut [Line]) -> Result<()> {
    let [rows, cols] = matrix.shape();
    let panels = (CHUNK / (cols * PANEL)).max(1);
    out.par_chunks_mut(panels * lines).enumerate().try_for_each(|(chunk, out)| {
        let start = chunk * panels * PANEL;
        let end = rows.min(start + panels * PANEL);
        let values = read_values(matrix, start..end)?;
        let values = ArrayView2::from_shape((end - start, cols), &values).expect("the shape that was read");
        for (panel, out) in out.chunks_mut(lines).enumerate() {
            for lane in 0..PANEL.min(values.nrows() - panel * PANEL) {
                let row = values.row(panel * PANEL + lane);
                write_row(row.to_slice().expect("rows are contiguous"), kind, lane, out);
            }
        }
        Ok(())
    })
}

/// Rows in f32, whatever their form.
fn read_values(matrix: &dyn Matrix, rows: Range<usize>) -> Result<Vec<f32>> {
    match matrix.read(rows)? {
        Weight::Dense(values) => Ok(values.into_iter().collect()),
        Weight::Quantized(q) => {
            let mut values = vec![0.0; q.rows * q.cols];
            q.dequantize(&mut values);
            Ok(values)
        }
    }
}

/// Writes a row into its lane.
fn write_row(row: &[f32], kind: Kind, lane: usize, out: &mut [Line]) {
    let columns = row.chunks(kind.columns());
    for (values, line) in columns.zip(out) {
        for (column, &value) in values.iter().enumerate() {
            match kind {
                Kind::F32 => line[4 * lane..][..4].copy_from_slice(&value.to_le_bytes()),
                Kind::F16 => {
                    let bits = half::f16::from_f32(value).to_le_bytes();
                    line[2 * (PANEL * column + lane)..][..2].copy_from_slice(&bits);
                }
                Kind::Bf16 => {
                    let bits = convert::bf16_bits(value).to_le_bytes();
                    line[2 * (2 * lane + column)..][..2].copy_from_slice(&bits);
                }
            }
        }
    }
}
