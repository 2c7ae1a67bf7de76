//! The log-probabilities of a base model: the encoding of their rows, and the file that keeps them for the next comparison.
//!
//! A file is named after the [`Identity`] of its content. So another model, text, protocol or version of llmc never finds a
//! wrong file. It is written under a temporary name and renamed when complete.

mod codec;
mod file;

pub(crate) use codec::EncodedRows;
pub use codec::Precision;
pub(crate) use file::{BaseReader, BaseWriter, Identity};
