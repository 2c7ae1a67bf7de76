//! Tensors streamed from a checkpoint to an output, in chunks of rows: read, quantized or converted, laid out, written.

mod block_result;
mod chunks;
mod extents;
mod gather;
mod rows;
mod size;
mod writer;

pub(crate) use block_result::{BlockResult, Input, RowEdit};
pub(crate) use chunks::{CHUNK_ELEMENTS, Chunk, chunk_rows, chunks_of, refuse_long_rows};
pub(crate) use extents::Extents;
pub(crate) use gather::{NonFinite, clear_nonfinite, gather, raw_runs};
pub(crate) use rows::quantize_rows;
pub(crate) use size::{chunk_input_bytes, input_bytes, total_input_bytes};
pub(crate) use writer::{NonFinites, TensorWriter, unmeasured};
