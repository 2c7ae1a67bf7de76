//! GGUF, llama.cpp's format: one file with metadata (configuration and tokenizer included) and tensors.
//!
//! [`parse`] validates the container and knows nothing of models; [`open`] gives the tensors their Hugging Face names
//! and rebuilds config.json and the tokenizer's files. [`mod@write`] lays out files.

pub mod config;
pub(crate) mod ggml_types;
mod open;
mod parse;
mod reader;
mod side_files;
mod value;
pub(crate) mod write;

pub use open::open;
pub(crate) use open::transform;
pub use parse::{Gguf, parse};
pub use side_files::side_files;
pub use value::{Array, Value};
pub(crate) use value::{Metadata, typed};

/// Returns true if a file opens as GGUF does.
pub(crate) fn is_gguf(file: &crate::io::map::MappedFile) -> bool {
    file.bytes().starts_with(b"GGUF")
}
