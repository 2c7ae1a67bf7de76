//! Parts that layouts share: words of codes, transposing, writing ranges of columns, choosing groups. The codes' packing
//! itself is [`crate::numerics::pack`]'s.

use crate::error::{Error, Result};
use crate::numerics::{Granularity, QTensor, ScalarCodes, ScaleType, Scheme, pack};
use crate::plan::{KERNEL_GROUPS, Part, Sink, slow_group};
use crate::tensor::DType;

/// The last component that Hugging Face gives a module's weight, taken off: the module's name.
pub(crate) fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// A part `name` of the module that owns `weight`.
pub(crate) fn part(weight: &str, name: &str, dtype: DType, shape: &[usize]) -> Part {
    Part { name: format!("{}.{name}", module(weight)), dtype, shape: shape.to_vec() }
}

/// Words of 32 bits that `count` codes of `bits` bits fill.
pub(crate) fn words(count: usize, bits: u8) -> usize {
    pack::row_len(count, bits) / 4
}

/// Rows of `cols` codes as rows of 32-bit words, little-endian: [`pack::pack_rows`] into a new buffer.
pub(crate) fn packed_rows(codes: &[u8], cols: usize, bits: u8) -> Vec<u8> {
    let rows = codes.len().checked_div(cols).unwrap_or(0);
    let mut out = vec![0; rows * pack::row_len(cols, bits)];
    pack::pack_rows(codes, cols, bits, &mut out);
    out
}

/// [rows, cols] → [cols, rows], in tiles of a cache line's width.
pub(crate) fn transpose<T: Copy + Default>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    const TILE: usize = 16;
    let mut out = vec![T::default(); rows * cols];
    for first in (0..cols).step_by(TILE) {
        let width = TILE.min(cols - first);
        for (row, line) in values.chunks_exact(cols).enumerate() {
            for (i, &value) in line[first..first + width].iter().enumerate() {
                out[(first + i) * rows + row] = value;
            }
        }
    }
    out
}

/// Little-endian bytes → words.
pub(crate) fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Words → little-endian bytes.
pub(crate) fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Writes `data`, the same range of columns of each of a part's `lines`: bytes `at..` of lines of `stride` bytes.
/// One call where the range is all the columns.
pub(crate) fn write_columns(
    sink: &mut Sink,
    part: usize,
    data: &[u8],
    lines: usize,
    stride: usize,
    at: usize,
) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let run = data.len() / lines;
    if run == stride {
        return sink(part, 0, data);
    }
    data.chunks_exact(run)
        .enumerate()
        .try_for_each(|(line, bytes)| sink(part, (line * stride + at) as u64, bytes))
}

/// The zero points of every grid entry; the middle of the range where the scheme is symmetric.
pub(crate) fn zero_points(q: &QTensor, bits: u8) -> Vec<u8> {
    let ScalarCodes { scheme, grid, .. } = q.as_scalar();
    match scheme.symmetric {
        true => vec![1 << (bits - 1); grid.scales.len()],
        false => grid.zero_points.clone(),
    }
}

/// The granularity that readers load on `cols` columns that are not a multiple of `asked`, and the reason: the largest of the groups
/// that kernels know, else 16, else the largest divisor of `cols` in 16..`asked`, else a scale per row.
pub(crate) fn fitting_group(cols: usize, asked: usize) -> (Granularity, String) {
    const SMALLEST: usize = 16;
    let fits = |size: &usize| *size <= asked && cols.is_multiple_of(*size);
    let known = KERNEL_GROUPS.iter().copied().chain([SMALLEST]).find(fits);
    let divisor = || (SMALLEST..asked.min(cols)).rev().find(fits);
    match known.or_else(divisor) {
        Some(size) => {
            let slow = slow_group(size).map_or(String::new(), |why| format!("; {why}"));
            let why = format!("{cols} columns are not a multiple of {asked}: groups of {size}{slow}");
            (Granularity::Group(size), why)
        }
        None => (
            Granularity::Channel,
            format!("no group of 16 to {asked} divides {cols} columns: one scale per row"),
        ),
    }
}

/// Columns per scale, where the granularity goes along rows.
pub(crate) fn group_size(scheme: &Scheme, cols: usize) -> Option<usize> {
    match scheme.granularity {
        Granularity::Group(size) => Some(size),
        Granularity::Channel => Some(cols),
        Granularity::Tensor | Granularity::Block(..) => None,
    }
}

/// The scale type that stores a float type's values; BF16 for what has none.
pub(crate) fn scale_type(dtype: DType) -> ScaleType {
    match dtype {
        DType::F16 => ScaleType::F16,
        DType::F32 | DType::F64 => ScaleType::F32,
        _ => ScaleType::BF16,
    }
}

/// Refuses columns that are grouped out of order.
pub(crate) fn in_order(q: &QTensor, format: &str) -> Result<()> {
    match q.g_idx() {
        None => Ok(()),
        Some(_) => Err(Error::unsupported(
            format!("{format} cannot store columns that are grouped out of order (act-order with g_idx)"),
            "use static act-order, which leaves no trace in the checkpoint",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_divide(cols in 1usize..5000, asked in 1usize..300) {
            if let (Granularity::Group(size), _) = fitting_group(cols, asked) {
                prop_assert!(cols % size == 0 && size <= asked && size >= 16, "{size}");
            }
        }
    }

    #[test]
    fn groups_that_kernels_know_come_first() {
        let check = |cols, asked, expected| assert_eq!(fitting_group(cols, asked).0, expected);
        check(576, 128, Granularity::Group(64)); // and not 96
        check(11008, 128, Granularity::Group(128));
        check(192, 128, Granularity::Group(64)); // and not 96
        check(720, 128, Granularity::Group(16)); // and not 120
        check(100, 128, Granularity::Group(50));
        check(1024, 48, Granularity::Group(32));
        check(1009, 128, Granularity::Channel);
        check(24, 128, Granularity::Channel);
    }

    #[test]
    fn groups_without_a_fast_kernel_say_so() {
        assert!(fitting_group(100, 128).1.contains("may not take"));
        assert!(!fitting_group(576, 128).1.contains("may not take"));
    }

    #[test]
    fn transposing_awkward_shapes() {
        for (rows, cols) in [(1, 1), (1, 40), (40, 1), (17, 33), (0, 5), (3, 16)] {
            let values: Vec<u32> = (0..rows * cols).map(|i| i as u32).collect();
            let out = transpose(&values, rows, cols);
            for row in 0..rows {
                for col in 0..cols {
                    assert_eq!(out[col * rows + row], values[row * cols + col], "{rows}x{cols}");
                }
            }
        }
    }
}
