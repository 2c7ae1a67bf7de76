//! Recognises checkpoints that are already quantized, and reads their codes.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::QTensor;

/// An engine's way of storing codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// compressed-tensors, pack-quantized.
    CompressedPacked,
    /// compressed-tensors, int-quantized and float-quantized; also plain FP8 checkpoints (`weight_scale_inv`).
    CompressedPlain,
    /// compressed-tensors, nvfp4-pack-quantized.
    CompressedNvFp4,
    /// compressed-tensors, mxfp4-pack-quantized.
    CompressedMxFp4,
    /// GPTQ, zero points stored minus one.
    GptqV1,
    /// GPTQ, zero points stored as they are.
    GptqV2,
    /// AWQ GEMM.
    Awq,
}

/// Reads rows of a quantized tensor: see [`super::Checkpoint::read_codes`].
pub fn read(
    _checkpoint: &super::Checkpoint,
    _source: &super::Source,
    _rows: Range<usize>,
) -> Result<QTensor> {
    todo!()
}
