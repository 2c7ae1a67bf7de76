//! The log-probabilities of a base model: how their rows are stored, and the file that keeps them for the next comparison.
//!
//! A file is named after the [`Identity`] of what is in it: another model, text, protocol or version of llmc finds no file,
//! rather than a wrong one. It is written beside its place and renamed when whole.

mod codec;
mod file;

pub use codec::{Precision, Rows};
pub use file::{Identity, Reader, Writer};
