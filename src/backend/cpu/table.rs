//! Tables of embeddings. A row is read from the file when it is looked up, so that a table takes no memory besides the
//! file's pages.

use std::sync::Arc;

use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::numerics::Weight;

/// A table of rows that are looked up by number.
pub struct EmbeddingTable(pub(super) Arc<dyn Matrix>);

impl EmbeddingTable {
    pub(super) fn cols(&self) -> usize {
        self.0.shape()[1]
    }

    /// Writes the rows of `ids` to `out`, [ids.len(), cols].
    ///
    /// # Errors
    /// If a number is beyond the table, or if its row cannot be read.
    pub(super) fn look_up(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let [rows, cols] = self.0.shape();
        for (i, &id) in ids.iter().enumerate() {
            let id = id as usize;
            if id >= rows {
                return Err(beyond(id, rows));
            }
            let out = &mut out[i * cols..][..cols];
            match self.0.read(id..id + 1)? {
                Weight::Dense(row) => out.iter_mut().zip(&row).for_each(|(out, value)| *out = *value),
                Weight::Quantized(row) => row.dequantize(out),
            }
        }
        Ok(())
    }
}

fn beyond(id: usize, rows: usize) -> Error {
    Error::unsupported(
        format!("token or position {id} is beyond the model's table of {rows} rows"),
        "check that the tokenizer belongs to this model, and that the text is no longer than the model's context",
    )
}
