//! The fallback for every quantized form without a kernel of its own (FP8, FP4, NF4, the rarer GGUF blocks). Codes are
//! kept as they are stored, packed to their bits; a panel is decoded when it is multiplied.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::packed::{PANEL, UnpackPanels};
use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::numerics::{Codes, Granularity, Number, QTensor, ScalarCodes, Weight, pack};

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
    pub(crate) fn pack(matrix: &dyn Matrix) -> Result<EncodedPanels> {
        let shape = matrix.shape();
        let multiple = read(matrix, 0..1.min(shape[0]))?.scheme().row_multiple();
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
    match q.scheme().number {
        Number::Int { bits } => bits,
        Number::Fp4 | Number::Nf4 => 4,
        Number::Fp8(_) | Number::Ggml(_) => 8,
    }
}

/// Returns the same tensor with separate grid entries for every row, if rows share them in blocks.
fn by_row(mut q: QTensor) -> QTensor {
    if let Codes::Scalar(ScalarCodes { scheme, grid, .. }) = &mut q.codes
        && let Granularity::Block(height, width) = scheme.granularity
    {
        let entries = q.cols.div_ceil(width);
        grid.scales = repeat(&grid.scales, entries, height, q.rows);
        grid.zero_points = repeat(&grid.zero_points, entries, height, q.rows);
        scheme.granularity = Granularity::Group(width);
    }
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
    let mut part = q.rows(rows);
    if bits < 8
        && let Codes::Scalar(ScalarCodes { codes, .. }) = &mut part.codes
    {
        let mut packed = vec![0; pack::packed_len(codes.len(), bits)];
        pack::pack(codes, bits, &mut packed);
        *codes = packed;
    }
    part
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
    let codes = match &q.codes {
        Codes::Scalar(ScalarCodes { codes, grid, .. }) => {
            codes.len() + 4 * grid.scales.len() + grid.zero_points.len()
        }
        Codes::Blocks { bytes, .. } => bytes.len(),
    };
    codes + size_of::<QTensor>()
}

thread_local! {
    /// Values of a panel, row by row.
    static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Returns the same panel with one byte per code.
fn unpack_codes(packed: &QTensor, bits: u8) -> QTensor {
    let ScalarCodes { scheme, codes: packed_codes, grid, g_idx } = packed.as_scalar();
    let mut codes = vec![0; packed.rows * packed.cols];
    pack::unpack(packed_codes, bits, &mut codes);
    let codes = ScalarCodes { scheme: *scheme, codes, grid: grid.clone(), g_idx: g_idx.clone() };
    QTensor { codes: Codes::Scalar(codes), ..*packed }
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
