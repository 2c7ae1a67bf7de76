//! GGUF block types: quantize and dequantize rows of blocks.
//!
//! Each type is a file with two functions, `quantize_row` and `dequantize_row`; [`codec`] is the one match over them.
//! Single-threaded: who calls splits the rows. Layouts, to the byte, are llama.cpp's:
//! <https://github.com/ggml-org/llama.cpp/blob/b6500/ggml/src/ggml-common.h>.

mod k_quants;

use ndarray::{ArrayView1, ArrayView2};

use crate::tensor::BlockType;

/// The two directions of a block type.
struct Codec {
    /// (values of one row, importance of its columns, blocks): the row's error is weighted by the importance.
    quantize_row: fn(&[f32], Option<&[f32]>, &mut [u8]),
    /// (blocks, values). Any bytes are blocks.
    dequantize_row: fn(&[u8], &mut [f32]),
}

macro_rules! codec {
    ($($module:ident)::+) => {
        Codec { quantize_row: $($module)::+::quantize_row, dequantize_row: $($module)::+::dequantize_row }
    };
}

fn codec(block: BlockType) -> Codec {
    match block {
        BlockType::Q2_K => codec!(k_quants::q2_k),
        BlockType::Q3_K => codec!(k_quants::q3_k),
        BlockType::Q4_K => codec!(k_quants::q4_k),
        BlockType::Q5_K => codec!(k_quants::q5_k),
        BlockType::Q6_K => codec!(k_quants::q6_k),
        _ => todo!(),
    }
}

/// Quantizes rows to blocks, row after row; `importance` is per column, [cols].
///
/// # Panics
/// Where a row is not a whole number of blocks, or where the importance is not one per column.
pub fn quantize(block: BlockType, w: ArrayView2<f32>, importance: Option<&[f32]>) -> Vec<u8> {
    let cols = w.ncols();
    assert_eq!(cols % block.block_elements(), 0, "quantize: a row is not a whole number of blocks");
    assert!(importance.is_none_or(|x| x.len() == cols), "quantize: importance is not one per column");
    let row_bytes = cols / block.block_elements() * block.block_bytes();
    let mut bytes = vec![0; w.nrows() * row_bytes];
    if row_bytes == 0 {
        return bytes;
    }
    let quantize_row = codec(block).quantize_row;
    let mut copy = Vec::new();
    for (row, out) in w.rows().into_iter().zip(bytes.chunks_exact_mut(row_bytes)) {
        quantize_row(contiguous(&row, &mut copy), importance, out);
    }
    bytes
}

/// The row itself where it lies in one piece, else a copy.
fn contiguous<'a>(row: &'a ArrayView1<f32>, copy: &'a mut Vec<f32>) -> &'a [f32] {
    if let Some(row) = row.as_slice() {
        return row;
    }
    copy.clear();
    copy.extend(row);
    copy
}

/// Blocks → values.
///
/// # Panics
/// Where the lengths disagree.
pub fn dequantize(block: BlockType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() % block.block_bytes(), 0, "dequantize: not a whole number of blocks");
    let blocks = bytes.len() / block.block_bytes();
    assert_eq!(out.len(), blocks * block.block_elements(), "dequantize: wrong output length");
    (codec(block).dequantize_row)(bytes, out);
}
