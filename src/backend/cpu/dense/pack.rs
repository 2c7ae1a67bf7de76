//! Packing of rows of values into panels of lines, a bounded number of rows at a time.

use rayon::prelude::*;

use super::super::packed::PANEL;
use super::super::pages::Line;
use super::element::ElementType;
use crate::backend::Matrix;
use crate::error::Result;
use crate::numerics::convert;

/// Number of values that a thread reads at once.
const CHUNK: usize = 1 << 18;

/// Fills the panels of a matrix, `lines` lines each; the lines are zero before.
pub(super) fn fill(matrix: &dyn Matrix, kind: ElementType, lines: usize, out: &mut [Line]) -> Result<()> {
    let [rows, cols] = matrix.shape();
    let panels = (CHUNK / (cols * PANEL)).max(1);
    out.par_chunks_mut(panels * lines).enumerate().try_for_each(|(chunk, out)| {
        let start = chunk * panels * PANEL;
        let end = rows.min(start + panels * PANEL);
        let values = matrix.read(start..end)?.into_values();
        for (panel, out) in out.chunks_mut(lines).enumerate() {
            for lane in 0..PANEL.min(values.nrows() - panel * PANEL) {
                let row = values.row(panel * PANEL + lane);
                write_row(row.to_slice().expect("rows are contiguous"), kind, lane, out);
            }
        }
        Ok(())
    })
}

/// Writes a row into its lane.
fn write_row(row: &[f32], kind: ElementType, lane: usize, out: &mut [Line]) {
    let columns = row.chunks(kind.columns());
    for (values, line) in columns.zip(out) {
        for (column, &value) in values.iter().enumerate() {
            match kind {
                ElementType::F32 => line[4 * lane..][..4].copy_from_slice(&value.to_le_bytes()),
                ElementType::F16 => {
                    let bits = half::f16::from_f32(value).to_le_bytes();
                    line[2 * (PANEL * column + lane)..][..2].copy_from_slice(&bits);
                }
                ElementType::Bf16 => {
                    let bits = convert::bf16_bits(value).to_le_bytes();
                    line[2 * (2 * lane + column)..][..2].copy_from_slice(&bits);
                }
            }
        }
    }
}
