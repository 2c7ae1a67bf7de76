//! The fallback for every quantized form without a kernel of its own (FP8, FP4, NF4, the rarer GGUF blocks). Codes are
//! kept as they are stored, packed to their bits; a panel is decoded when it is multiplied.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::packed::{PANEL, UnpackPanels};
use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::numerics::{Granularity, Grid, Number, QTensor, Weight, pack};

/// Panels of quantized codes, decoded one by one during the multiplication.
pub(in super::super) struct EncodedPanels {
    shape: [usize; 2],
    /// Bits per code in the panels.
    bits: u8,
    /// One tensor per [`PANEL`] rows, with packed codes.
    panels: Vec<QTensor>,
}

/// Rows read at once: a multiple of [`PANEL`].
const CHUNK: usize = 128;

impl EncodedPanels {
    /// Packs a quantized matrix.
    ///
    /// # Errors
    /// If reading fails, or returns values instead of codes.
    pub fn pack(matrix: &dyn Matrix) -> Result<EncodedPanels> {
        let shape = matrix.shape();
        let multiple = match read(matrix, 0..1.min(shape[0]))?.scheme.granularity {
            Granularity::Block(rows, _) => rows,
            _ => 1,
        };
        let chunk = least_common_multiple(CHUNK, multiple);
        let starts: Vec<usize> = (0..shape[0]).step_by(chunk).collect();
        let chunks = starts.into_par_iter().map(|start| {
            let q = by_row(read(matrix, start..shape[0].min(start + chunk))?);
            Ok((0..q.rows).step_by(PANEL).map(|row| cut(&q, row..q.rows.min(row + PANEL))).collect())
        });
        let panels = chunks.collect::<Result<Vec<Vec<QTensor>>>>()?.concat();
        let bits = panels.first().map_or(8, code_bits);
        Ok(EncodedPanels { shape, bits, panels })
    }
}

fn read(matrix: &dyn Matrix, rows: Range<usize>) -> Result<QTensor> {
    match matrix.read(rows)? {
        Weight::Quantized(q) => Ok(q),
        Weight::Dense(_) => Err(Error::unsupported(
            "a weight gives codes for some rows and values for others",
            "convert it to one form first (`llmc convert`)",
        )),
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    (1..=b).map(|n| a * n).find(|multiple| multiple % b == 0).unwrap_or(a)
}

/// Returns the bits of a code; GGUF blocks stay bytes.
fn code_bits(q: &QTensor) -> u8 {
    match q.scheme.number {
        Number::Int { bits } => bits,
        Number::Fp4 | Number::Nf4 => 4,
        Number::Fp8(_) | Number::Ggml(_) => 8,
    }
}

/// Returns the same tensor with separate grid entries for every row, if rows share them in blocks.
fn by_row(mut q: QTensor) -> QTensor {
    let Granularity::Block(height, width) = q.scheme.granularity else { return q };
    let entries = q.cols.div_ceil(width);
    q.grid.scales = repeat(&q.grid.scales, entries, height, q.rows);
    q.grid.zero_points = repeat(&q.grid.zero_points, entries, height, q.rows);
    q.scheme.granularity = Granularity::Group(width);
    q
}

/// Repeats each run of `entries` for `height` rows, up to `rows` rows in total.
fn repeat<T: Copy>(grid: &[T], entries: usize, height: usize, rows: usize) -> Vec<T> {
    let runs = grid.chunks_exact(entries.max(1)).flat_map(|run| std::iter::repeat_n(run, height));
    runs.take(rows).flatten().copied().collect()
}

/// Returns some rows, with packed codes.
fn cut(q: &QTensor, rows: Range<usize>) -> QTensor {
    let bits = code_bits(q);
    let row = q.codes.len() / q.rows;
    let codes = &q.codes[rows.start * row..rows.end * row];
    let mut packed = vec![0; pack::packed_len(codes.len(), bits)];
    pack::pack(codes, bits, &mut packed);
    let entries = match q.scheme.granularity {
        Granularity::Tensor => 0..usize::MAX,
        _ => {
            let per_row = q.grid.scales.len() / q.rows;
            rows.start * per_row..rows.end * per_row
        }
    };
    let grid = Grid {
        scales: slice(&q.grid.scales, &entries),
        zero_points: slice(&q.grid.zero_points, &entries),
        global_scale: q.grid.global_scale,
    };
    QTensor { scheme: q.scheme, rows: rows.len(), cols: q.cols, codes: packed, grid, g_idx: q.g_idx.clone() }
}

/// Returns the part of a range that exists.
fn slice<T: Copy>(values: &[T], range: &Range<usize>) -> Vec<T> {
    values[range.start.min(values.len())..range.end.min(values.len())].to_vec()
}

impl UnpackPanels for EncodedPanels {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        self.panels.iter().map(panel_bytes).sum()
    }

    fn unpack(&self, panel: usize, out: &mut [f32]) {
        let packed = &self.panels[panel];
        VALUES.with_borrow_mut(|values| {
            values.resize(packed.rows * packed.cols, 0.0);
            match self.bits {
                8 => packed.dequantize(values),
                bits => unpack_codes(packed, bits).dequantize(values),
            }
            transpose(values, packed.cols, out);
        });
    }
}

fn panel_bytes(q: &QTensor) -> usize {
    q.codes.len() + 4 * q.grid.scales.len() + q.grid.zero_points.len() + size_of::<QTensor>()
}

thread_local! {
    /// Values of a panel, row by row.
    static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Returns the same panel with one byte per code.
fn unpack_codes(packed: &QTensor, bits: u8) -> QTensor {
    let mut codes = vec![0; packed.rows * packed.cols];
    pack::unpack(&packed.codes, bits, &mut codes);
    QTensor { codes, grid: packed.grid.clone(), g_idx: packed.g_idx.clone(), ..*packed }
}

/// Transposes at most [`PANEL`] rows of `cols` to [cols, PANEL]; lanes without a row are zeros.
fn transpose(values: &[f32], cols: usize, out: &mut [f32]) {
    let rows = values.len() / cols;
    for (column, lanes) in out.chunks_exact_mut(PANEL).enumerate() {
        for (row, lane) in lanes.iter_mut().enumerate() {
            *lane = if row < rows { values[row * cols + column] } else { 0.0 };
        }
    }
}
