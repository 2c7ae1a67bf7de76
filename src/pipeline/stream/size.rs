//! Bytes of the input that an output is made from, for progress bars.

use super::chunks::Chunk;
use crate::io::Checkpoint;
use crate::plan::{OutputTensor, Piece, Plan, TensorPlan};
use crate::tensor::rows_cols;

/// Total input bytes of a plan: the length of its progress bar.
pub(crate) fn total_input_bytes(plan: &Plan, checkpoint: &Checkpoint) -> u64 {
    plan.tensors.iter().map(|tensor| input_bytes(checkpoint, &tensor.output)).sum()
}

/// Bytes of the input that an output is made from.
pub(crate) fn input_bytes(checkpoint: &Checkpoint, output: &OutputTensor) -> u64 {
    let piece_bytes = |piece: &Piece| {
        let source = checkpoint.tensors.get(&piece.source)?;
        let [rows, _] = rows_cols(&source.shape);
        Some(source.stored_bytes() * piece.rows.len() as u64 / rows.max(1) as u64)
    };
    output.pieces.iter().filter_map(piece_bytes).sum()
}

/// The share of a chunk in the input bytes of its tensor.
pub(crate) fn chunk_input_bytes(checkpoint: &Checkpoint, tensor: &TensorPlan, chunk: &Chunk) -> u64 {
    let [rows, _] = tensor.rows_cols();
    input_bytes(checkpoint, &tensor.output) * chunk.rows.len() as u64 / rows.max(1) as u64
}
