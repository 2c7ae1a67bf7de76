//! An importance matrix, and its entries as the files have them.

use std::path::Path;

use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::statistics::Statistics;

/// The hint for a broken file.
pub(crate) const AGAIN: &str = "make it again, with `llmc calibrate` or llama-imatrix";

/// An importance matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imatrix {
    /// By the name of the weight in the checkpoint: the sums of squares, and the tokens. An expert may have seen none.
    pub linears: IndexMap<String, Statistics>,
    /// The texts that were read.
    pub datasets: Vec<String>,
    /// Sequences that were read.
    pub chunk_count: u32,
    /// Tokens of each.
    pub chunk_size: u32,
}

/// The importance of one GGUF tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Its name, `.weight` included.
    pub tensor: String,
    /// Σ x² of each matrix, one after the other.
    pub sums: Vec<f32>,
    /// Tokens of each matrix; one for all of them where they were not counted apart.
    pub counts: Vec<f32>,
}

/// Reads sums of squares and counts: finite numbers that are not negative.
pub(crate) fn floats(file: &Path, name: &str, bytes: &[u8]) -> Result<Vec<f32>> {
    let (values, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
        Some(wrong) => Err(Error::malformed_tensor(file, name, "sums of squares and counts", wrong, AGAIN)),
        None => Ok(values),
    }
}
