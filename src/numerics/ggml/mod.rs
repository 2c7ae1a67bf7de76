//! GGUF block types: quantize and dequantize rows of blocks.

mod k_quants;

use ndarray::ArrayView2;

use crate::tensor::BlockType;

/// Quantizes rows to blocks, row after row; `importance` is per column, [cols].
///
/// # Panics
/// Where a row is not a whole number of blocks.
pub fn quantize(_block: BlockType, _w: ArrayView2<f32>, _importance: Option<&[f32]>) -> Vec<u8> {
    todo!()
}

/// Blocks → values.
pub fn dequantize(_block: BlockType, _bytes: &[u8], _out: &mut [f32]) {
    todo!()
}
