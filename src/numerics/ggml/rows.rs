//! Rows of values ↔ rows of blocks, and the one match over the block types.

use ndarray::{ArrayView1, ArrayView2};

use super::affine::{Q4_1, Q5_1};
use super::codec::Functions;
use super::iq4_nl::Iq4Nl;
use super::iq4_xs::Iq4Xs;
use super::k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::q8_0::Q8_0;
use super::symmetric::{Q4_0, Q5_0};
use crate::tensor::BlockType;

/// Returns the functions of a block type, over the fastest lanes of this machine.
pub(crate) fn functions(block: BlockType) -> Functions {
    match block {
        BlockType::Q4_0 => Functions::fastest::<Q4_0>(),
        BlockType::Q4_1 => Functions::fastest::<Q4_1>(),
        BlockType::Q5_0 => Functions::fastest::<Q5_0>(),
        BlockType::Q5_1 => Functions::fastest::<Q5_1>(),
        BlockType::Q8_0 => Functions::fastest::<Q8_0>(),
        BlockType::Q2_K => Functions::fastest::<Q2K>(),
        BlockType::Q3_K => Functions::fastest::<Q3K>(),
        BlockType::Q4_K => Functions::fastest::<Q4K>(),
        BlockType::Q5_K => Functions::fastest::<Q5K>(),
        BlockType::Q6_K => Functions::fastest::<Q6K>(),
        BlockType::IQ4_NL => Functions::fastest::<Iq4Nl>(),
        BlockType::IQ4_XS => Functions::fastest::<Iq4Xs>(),
    }
}

/// Quantizes rows to blocks, row after row; `importance` is per column, \[cols\].
///
/// # Panics
/// If a row is not a whole number of blocks, or the importance is not one per column.
pub fn quantize(block: BlockType, w: ArrayView2<f32>, importance: Option<&[f32]>) -> Vec<u8> {
    let cols = w.ncols();
    assert_eq!(cols % block.block_elements(), 0, "quantize: a row is not a whole number of blocks");
    assert!(importance.is_none_or(|x| x.len() == cols), "quantize: importance is not one per column");
    let row_bytes = cols / block.block_elements() * block.block_bytes();
    let mut bytes = vec![0; w.nrows() * row_bytes];
    if row_bytes == 0 {
        return bytes;
    }
    let quantize_row = functions(block).quantize_row;
    let mut copy = Vec::new();
    for (row, out) in w.rows().into_iter().zip(bytes.chunks_exact_mut(row_bytes)) {
        quantize_row(contiguous(&row, &mut copy), importance, out);
    }
    bytes
}

/// Returns the row itself if it lies in one piece, else a copy.
fn contiguous<'a>(row: &'a ArrayView1<f32>, copy: &'a mut Vec<f32>) -> &'a [f32] {
    if let Some(row) = row.as_slice() {
        return row;
    }
    copy.clear();
    copy.extend(row);
    copy
}

/// Dequantizes blocks.
///
/// # Panics
/// If the lengths disagree.
pub fn dequantize(block: BlockType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() % block.block_bytes(), 0, "dequantize: not a whole number of blocks");
    let blocks = bytes.len() / block.block_bytes();
    assert_eq!(out.len(), blocks * block.block_elements(), "dequantize: wrong output length");
    (functions(block).dequantize_row)(bytes, out);
}
