//! Weights that are stored without their zeros: the values that stay, and a bit for each weight. compressed-tensors up to 0.14 wrote
//! them as sparse-24-bitmask and sparse-bitmask; no later release reads them.
//!
//! | part | 2:4 | any zeros |
//! |---|---|---|
//! | `compressed` | [N, K/2] | [values], row after row |
//! | `bitmask` | U8 [N, ⌈K/8⌉], the first column in the lowest bit | the same |
//! | `shape` | I64 [2, 1]: N, K | I64 [2], or [1] for a vector |
//! | `row_offsets` | none | I64 [N]: the first value of each row |
//!
//! Floats are dense weights to all else. Values of 8 bits are codes of int- and float-quantized weights. Since 0.9 the parts of a
//! weight are its module's (`q_proj.compressed`), beside the scales; earlier releases stored all tensors so, under their full names
//! (`q_proj.weight.compressed`). Source: compressors/sparse_compressors of compressed-tensors 0.10.2, and sparse_bitmask.py of 0.3.3.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layouts;
use super::module::Module;
use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::source::{RawTensor, Source, Stored};
use crate::numerics::convert;
use crate::tensor::DType;

pub(super) const VALUES: &str = "compressed";
const BITMASK: &str = "bitmask";
const SHAPE: &str = "shape";
const ROW_OFFSETS: &str = "row_offsets";
/// The parts of a dense weight.
pub(super) const ROLES: [&str; 4] = [VALUES, BITMASK, SHAPE, ROW_OFFSETS];
/// The parts that every such weight has.
pub(super) const REQUIRED: [&str; 3] = [VALUES, BITMASK, SHAPE];

/// Types of dense weights.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];
/// Ends of the full names of tensors.
const TENSORS: [&str; 2] = ["weight", "bias"];

const DAMAGED: &str = "the tensor is damaged: fetch the checkpoint again";

/// A dense weight, or a vector.
pub(super) fn floats(module: Module) -> Result<Source> {
    let values = module.part(VALUES)?;
    module.typed(values, &FLOATS)?;
    let (dtype, shape) = (values.dtype, shape(&module)?);
    let name = if is_full_name(module.name) { module.name.to_owned() } else { module.tensor("weight") };
    Ok(Source::new(name, shape, Stored::Sparse { dtype, parts: module.parts }))
}

/// The codes of an int- or float-quantized weight. Under full names there are none: their scales would be stored so, too.
pub(super) fn codes(module: Module) -> Result<Source> {
    if is_full_name(module.name) {
        module.typed(module.part(VALUES)?, &FLOATS)?;
    }
    let shape = shape(&module)?;
    match shape.as_slice() {
        &[rows, cols] => layouts::bytes(module, VALUES, [rows, cols]),
        _ => Err(module.wrong(module.part(SHAPE)?, "the sizes of a matrix", &shape)),
    }
}

/// Returns true if a tensor's parts are under its full name.
fn is_full_name(module: &str) -> bool {
    module.rsplit('.').next().is_some_and(|last| TENSORS.contains(&last))
}

/// The shape of the whole, once every part agrees with it.
fn shape(module: &Module) -> Result<Vec<usize>> {
    let dims = dims(module)?;
    let part = module.part(SHAPE)?;
    let (Some(&cols), Some(_)) = (dims.last(), module.part(VALUES)?.dtype.byte_len(&dims)) else {
        return Err(module.wrong(part, "a shape that fits in memory", &dims));
    };
    let outer = &dims[..dims.len() - 1];
    module.typed(module.part(BITMASK)?, &[DType::U8])?;
    module.shaped(BITMASK, &[outer, &[cols.div_ceil(8)]].concat())?;
    check_values(module, outer, cols)?;
    Ok(dims)
}

/// The sizes that `shape` holds: of a vector, or of a matrix.
fn dims(module: &Module) -> Result<Vec<usize>> {
    let part = module.part(SHAPE)?;
    module.typed(part, &[DType::I64])?;
    if !matches!(part.shape.as_slice(), [1 | 2] | [1 | 2, 1]) {
        return Err(module.wrong(part, "the sizes of a vector or of a matrix", &part.shape));
    }
    let stored: Vec<i64> =
        module.bytes(part).as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect();
    let dims: Option<Vec<usize>> = stored.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    dims.ok_or_else(|| module.wrong(part, "sizes", &stored))
}

/// Checks the shape of the values: half of each row, or flat with an offset for each row.
fn check_values(module: &Module, outer: &[usize], cols: usize) -> Result<()> {
    let values = module.part(VALUES)?;
    let flat = values.shape.len() == 1;
    if flat {
        module.typed(module.part(ROW_OFFSETS)?, &[DType::I64])?;
        return module.shaped(ROW_OFFSETS, outer);
    }
    match outer {
        &[rows] if cols.is_multiple_of(4) && !module.parts.contains_key(ROW_OFFSETS) => {
            module.shaped(VALUES, &[rows, cols / 2])
        }
        _ => {
            let expected = "two of each four columns of a matrix, or a vector beside row_offsets";
            Err(module.wrong(values, expected, &values.shape))
        }
    }
}

/// Reads rows of a dense weight in f32. `parts` are those of the source, which [`floats`] has checked.
pub(crate) fn read_sparse(
    files: &[MappedFile],
    source: &Source,
    parts: &BTreeMap<&'static str, RawTensor>,
    rows: Range<usize>,
    out: &mut [f32],
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let [_, cols] = source.rows_cols();
    let rows = rows.start + source.first_row..rows.end + source.first_row;
    let sparse = SparseRows::new(files, parts, cols);
    let dtype = sparse.values.dtype;
    let mut bytes = vec![0; cols * dtype.block_bytes()];
    for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
        sparse.read_row(row, &mut bytes)?;
        convert::to_f32(dtype, &bytes, out);
    }
    Ok(())
}

/// The rows of a weight whose parts agree with its shape.
pub(super) struct SparseRows<'a> {
    files: &'a [MappedFile],
    values: &'a RawTensor,
    bitmask: &'a RawTensor,
    row_offsets: Option<&'a RawTensor>,
    cols: usize,
}

impl<'a> SparseRows<'a> {
    /// The rows of parts that [`floats`] or [`codes`] has checked.
    pub(super) fn new(
        files: &'a [MappedFile],
        parts: &'a BTreeMap<&'static str, RawTensor>,
        cols: usize,
    ) -> SparseRows<'a> {
        let (values, bitmask) = (&parts[VALUES], &parts[BITMASK]);
        SparseRows { files, values, bitmask, row_offsets: parts.get(ROW_OFFSETS), cols }
    }

    /// Reads rows of values of one byte, zeros included.
    pub(super) fn read_bytes(&self, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let mut rows = rows.zip(out.chunks_exact_mut(self.cols.max(1)));
        rows.try_for_each(|(row, out)| self.read_row(row, out))
    }

    /// Reads a row as the bytes that a dense weight would have.
    fn read_row(&self, row: usize, out: &mut [u8]) -> Result<()> {
        let size = self.values.dtype.block_bytes();
        let span = self.span(row)?;
        let values = &self.bytes(self.values)[span.start * size..span.end * size];
        let width = self.cols.div_ceil(8);
        let mask = &self.bytes(self.bitmask)[row * width..][..width];
        let set = match size {
            1 => scatter::<1>(values, mask, out),
            2 => scatter::<2>(values, mask, out),
            _ => scatter::<4>(values, mask, out),
        };
        if set == span.len() {
            return Ok(());
        }
        let expected = format!("{} bits in row {row}, one for each of its values", span.len());
        Err(self.wrong(self.bitmask, expected, set))
    }

    /// The values of a row.
    fn span(&self, row: usize) -> Result<Range<usize>> {
        let Some(part) = self.row_offsets else {
            let half = self.cols / 2;
            return Ok(row * half..(row + 1) * half);
        };
        let (offsets, total) = (self.bytes(part).as_chunks::<8>().0, self.values.shape[0]);
        span_at(offsets, row, total).ok_or_else(|| {
            let found: Vec<i64> =
                offsets.iter().skip(row).take(2).map(|&bytes| i64::from_le_bytes(bytes)).collect();
            self.wrong(
                part,
                format!("offsets that rise from 0 to {total}"),
                format!("{found:?} at row {row}"),
            )
        })
    }

    fn bytes(&self, part: &RawTensor) -> &'a [u8] {
        &self.files[part.file].bytes()[part.range.clone()]
    }

    fn wrong(&self, part: &RawTensor, expected: String, found: impl std::fmt::Display) -> Error {
        Error::malformed_tensor(self.files[part.file].path(), &part.name, expected, found, DAMAGED)
    }
}

/// The values of a row, from the offsets of all rows; `None` where they do not rise from 0 to `total`.
fn span_at(offsets: &[[u8; 8]], row: usize, total: usize) -> Option<Range<usize>> {
    let offset = |row: usize| match offsets.get(row) {
        Some(&bytes) => usize::try_from(i64::from_le_bytes(bytes)).ok(),
        None => Some(total),
    };
    let span = offset(row)?..offset(row + 1)?;
    let rises = span.start <= span.end && span.end <= total && (row > 0 || span.start == 0);
    rises.then_some(span)
}

/// Puts values of N bytes where a bit is set, and zeros elsewhere. Returns the number of set bits.
fn scatter<const N: usize>(values: &[u8], mask: &[u8], out: &mut [u8]) -> usize {
    let (values, out) = (values.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    out.fill([0; N]);
    let mut set = 0;
    for column in columns(mask, out.len()) {
        if let Some(value) = values.get(set) {
            out[column] = *value;
        }
        set += 1;
    }
    set
}

/// The columns below `cols` whose bit is set. Bits behind the last column mean nothing.
fn columns(mask: &[u8], cols: usize) -> impl Iterator<Item = usize> {
    let bits = mask.iter().enumerate().flat_map(|(i, &byte)| {
        let set = move |bit: &usize| byte >> bit & 1 == 1;
        (0..8).filter(set).map(move |bit| 8 * i + bit)
    });
    bits.take_while(move |&column| column < cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2:4 of 2 x 8: 0 1 2 0 | 3 0 0 4, and 5 6 0 0 | 0 0 7 8.
    #[test]
    fn the_first_column_is_in_the_lowest_bit() {
        let mut out = [9u8; 8];
        assert_eq!(scatter::<1>(&[1, 2, 3, 4], &[0b1001_0110], &mut out), 4);
        assert_eq!(out, [0, 1, 2, 0, 3, 0, 0, 4]);
        assert_eq!(scatter::<1>(&[5, 6, 7, 8], &[0b1100_0011], &mut out), 4);
        assert_eq!(out, [5, 6, 0, 0, 0, 0, 7, 8]);
    }

    #[test]
    fn wide_values_stay_whole() {
        let mut out = [9u8; 6];
        assert_eq!(scatter::<2>(&[0x80, 0x3f, 0x00, 0xc0], &[0b101], &mut out), 2);
        assert_eq!(out, [0x80, 0x3f, 0, 0, 0x00, 0xc0]);
        let mut out = [9u8; 8];
        assert_eq!(scatter::<4>(&[1, 2, 3, 4], &[0b10], &mut out), 1);
        assert_eq!(out, [0, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn columns_go_on_in_the_next_byte_and_end_with_the_row() {
        let all = |mask: &[u8], cols| columns(mask, cols).collect::<Vec<_>>();
        assert_eq!(all(&[0b1000_0001, 0b0000_0110], 16), [0, 7, 9, 10]);
        assert_eq!(all(&[0b1000_0001, 0b0000_0110], 10), [0, 7, 9]);
        assert_eq!(all(&[0xff], 0), Vec::<usize>::new());
        assert_eq!(all(&[], 0), Vec::<usize>::new());
    }

    #[test]
    fn more_bits_than_values_are_counted() {
        let mut out = [9u8; 4];
        assert_eq!(scatter::<1>(&[1], &[0b1111], &mut out), 4);
        assert_eq!(out, [1, 0, 0, 0]);
        assert_eq!(scatter::<1>(&[1, 2], &[0], &mut out), 0);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn offsets_rise_from_zero_to_the_number_of_values() {
        let span = |offsets: &[i64], row, total| {
            let bytes: Vec<[u8; 8]> = offsets.iter().map(|offset| offset.to_le_bytes()).collect();
            span_at(&bytes, row, total)
        };
        let rows = |offsets: &[i64], total| {
            (0..offsets.len()).map(|row| span(offsets, row, total)).collect::<Option<Vec<_>>>()
        };
        assert_eq!(rows(&[0, 2, 2, 5], 6), Some(vec![0..2, 2..2, 2..5, 5..6]));
        assert_eq!(rows(&[0, 0], 0), Some(vec![0..0, 0..0]));
        let wrong: [&[i64]; 6] = [&[1, 2], &[0, 7], &[0, 3, 2], &[0, -1], &[-1], &[0, i64::MAX]];
        for offsets in wrong {
            assert_eq!(rows(offsets, 6), None, "{offsets:?}");
        }
    }
}
