//! Rows of an output, gathered from the rows of its sources, in f32 or as the bytes they are stored in.

use std::ops::Range;
use std::path::Path;

use super::block_result::Input;
use super::chunks::CHUNK_ELEMENTS;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source, Stored, nonfinite_count};
use crate::model::Transform;
use crate::numerics::{QTensor, convert};
use crate::plan::OutputTensor;
use crate::tensor::{DType, rows_cols};

/// Counts of values that cannot be rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NonFinite {
    /// NaN.
    pub nan: usize,
    /// Positive or negative infinity.
    pub inf: usize,
}

impl NonFinite {
    /// Counts them in values.
    pub(crate) fn count(values: &[f32]) -> NonFinite {
        let (nan, inf) = nonfinite_count(values);
        NonFinite { nan, inf }
    }

    /// Counts them in stored values; integers and codes have none.
    pub(crate) fn count_stored(dtype: DType, bytes: &[u8]) -> NonFinite {
        match dtype {
            DType::F64 => {
                let values = bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value));
                let [mut nan, mut inf] = [0, 0];
                values.for_each(|value| {
                    nan += usize::from(value.is_nan());
                    inf += usize::from(value.is_infinite());
                });
                NonFinite { nan, inf }
            }
            DType::Block(_) => NonFinite::default(),
            dtype if dtype.is_float() => {
                let mut values = Vec::new();
                let count = |piece: &[u8]| {
                    values.resize(piece.len() / dtype.block_bytes(), 0.0);
                    convert::to_f32(dtype, piece, &mut values);
                    NonFinite::count(&values)
                };
                bytes.chunks(CHUNK_ELEMENTS * dtype.block_bytes()).map(count).sum()
            }
            _ => NonFinite::default(),
        }
    }

    /// Returns true if every value is finite.
    pub(crate) fn none(self) -> bool {
        self == NonFinite::default()
    }

    /// The error if such values are not allowed. `of` is the number of values of the tensor.
    pub(crate) fn refusal(self, file: &Path, tensor: &str, of: u64) -> Error {
        Error::malformed_tensor(
            file,
            tensor,
            "finite weights",
            format!("{} NaN and {} infinities among {of} values", self.nan, self.inf),
            "the checkpoint is probably damaged: compare its checksum with the publisher's; --allow-nonfinite lets such values pass, as 0 where they are quantized",
        )
    }

    /// Adds another count.
    pub(crate) fn add(&mut self, other: NonFinite) {
        self.nan += other.nan;
        self.inf += other.inf;
    }
}

impl std::iter::Sum for NonFinite {
    fn sum<I: Iterator<Item = NonFinite>>(counts: I) -> NonFinite {
        counts.fold(NonFinite::default(), |mut total, count| {
            total.add(count);
            total
        })
    }
}

/// Sets values that are not finite to 0, once they are counted and allowed.
pub(crate) fn clear_nonfinite(values: &mut [f32]) {
    values.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
}

/// Consecutive rows of one source that become consecutive rows of an output.
struct RowRun<'a> {
    source: &'a Source,
    rows: Range<usize>,
}

/// Reads output rows into `values`, [rows.len(), cols].
pub(crate) fn gather(
    input: Input,
    output: &OutputTensor,
    rows: Range<usize>,
    values: &mut Vec<f32>,
) -> Result<()> {
    let [_, cols] = rows_cols(&output.shape);
    values.resize(rows.len() * cols, 0.0);
    let mut rest = values.as_mut_slice();
    for run in runs(input.checkpoint, output, rows)? {
        let (now, later) = rest.split_at_mut(run.rows.len() * cols);
        input.read_rows(run.source, run.rows, now)?;
        rest = later;
    }
    output.transform.apply(values);
    Ok(())
}

/// The stored bytes of output rows, if they can be copied as they are.
pub(crate) fn raw_runs<'a>(
    input: Input<'a>,
    output: &OutputTensor,
    rows: Range<usize>,
    dtype: DType,
) -> Result<Option<Vec<&'a [u8]>>> {
    let [_, cols] = rows_cols(&output.shape);
    let row_bytes = cols / dtype.block_elements() * dtype.block_bytes();
    let slice = |run: RowRun| {
        let same = matches!(&run.source.stored, Stored::Dense(raw) if raw.dtype == dtype);
        let bytes = input.checkpoint.bytes(run.source).filter(|_| same)?;
        bytes.get(run.rows.start * row_bytes..run.rows.end * row_bytes)
    };
    let changes = output.transform != Transform::None && !output.transform.permutes_rows();
    if changes || input.rewrites_any(output) {
        return Ok(None);
    }
    Ok(runs(input.checkpoint, output, rows)?.into_iter().map(slice).collect())
}

/// The codes of output rows, if every source has codes.
pub(crate) fn gather_codes(
    input: Input,
    output: &OutputTensor,
    rows: Range<usize>,
) -> Result<Option<QTensor>> {
    let rows_of = |run: RowRun| Some(input.codes(&run.source.name)?.rows(run.rows));
    let codes: Option<Vec<QTensor>> =
        runs(input.checkpoint, output, rows)?.into_iter().map(rows_of).collect();
    Ok(codes.filter(|codes| !codes.is_empty()).map(QTensor::stack))
}

/// The runs of source rows that output rows come from.
fn runs<'a>(
    checkpoint: &'a Checkpoint,
    output: &OutputTensor,
    rows: Range<usize>,
) -> Result<Vec<RowRun<'a>>> {
    let [total, _] = rows_cols(&output.shape);
    let mut found: Vec<RowRun> = Vec::new();
    let mut row = rows.start;
    while row < rows.end {
        let mapped = output.transform.source_row(row, total);
        let (source, first, left) = locate(checkpoint, output, mapped)?;
        let length = if output.transform.permutes_rows() { 1 } else { left.min(rows.end - row) };
        match found.last_mut() {
            Some(last) if std::ptr::eq(last.source, source) && last.rows.end == first => {
                last.rows.end += length
            }
            _ => found.push(RowRun { source, rows: first..first + length }),
        }
        row += length;
    }
    Ok(found)
}

/// Finds a row of the pieces in sequence: its source, its row there, and the number of rows from it to the end of the piece.
fn locate<'a>(
    checkpoint: &'a Checkpoint,
    output: &OutputTensor,
    mut row: usize,
) -> Result<(&'a Source, usize, usize)> {
    for piece in &output.pieces {
        if row < piece.rows.len() {
            let source = checkpoint.source(&piece.source)?;
            return Ok((source, piece.rows.start + row, piece.rows.len() - row));
        }
        row -= piece.rows.len();
    }
    unreachable!("the pieces of an output have as many rows as its shape says")
}
