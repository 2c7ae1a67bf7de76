//! Recognises checkpoints that are already quantized, and reads their codes.

use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::map::MappedFile;
use super::{Checkpoint, RawTensor, Source, Stored};
use crate::error::Result;
use crate::model::Transform;
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

/// Groups a safetensors checkpoint's tensors into logical sources, quantized ones under `<module>.weight`, and says in
/// words how it was quantized (`None`: it was not). `path` is what was opened; `files` are the maps `raw` points into
/// (`weight_shape` holds numbers that the headers do not).
pub fn recognise(
    raw: IndexMap<String, RawTensor>,
    _config: Option<&Value>,
    _path: &Path,
    _files: &[MappedFile],
) -> Result<(IndexMap<String, Source>, Option<String>)> {
    Ok((raw.into_iter().map(|(name, tensor)| (name, dense(tensor))).collect(), None))
}

/// A tensor stored as it is.
fn dense(raw: RawTensor) -> Source {
    Source {
        name: raw.name.clone(),
        shape: raw.shape.clone(),
        stored: Stored::Dense(raw),
        first_row: 0,
        transform: Transform::None,
    }
}

/// Reads rows of a quantized tensor: see [`super::Checkpoint::read_codes`]. Any range of the source's rows.
pub fn read(_checkpoint: &Checkpoint, _source: &Source, _rows: Range<usize>) -> Result<QTensor> {
    todo!()
}
