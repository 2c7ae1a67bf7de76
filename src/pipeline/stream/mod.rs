//! Tensors streamed from a checkpoint to an output, in chunks of rows: read, quantized or converted, laid out, written.

mod block_result;
mod chunks;
mod extents;
mod gather;
mod rows;
mod size;
mod writer;

pub use block_result::{BlockResult, Input, RowEdit};
pub use chunks::{CHUNK_ELEMENTS, Chunk, chunk_rows, chunks_of, refuse_long_rows};
pub use extents::Extents;
pub use gather::{NonFinite, clear_nonfinite, gather, raw_runs};
pub use rows::quantize_rows;
pub use size::{chunk_input_bytes, input_bytes, total_input_bytes};
pub use writer::{NonFinites, TensorWriter, unmeasured};
