//! Reading checkpoints: whatever is on disk or on the hub becomes one [`Checkpoint`] of logical tensors under their
//! Hugging Face names. Knows files and formats; knows no method.
//!
//! Every input is hostile until validated: headers are parsed with checked arithmetic, and nothing is allocated for a
//! size that the file does not back.

mod checkpoint;
mod edit;
pub mod gguf;
pub(crate) mod heads;
pub mod hub;
pub mod index;
pub(crate) mod map;
mod open;
mod own;
pub(crate) mod quantized;
pub mod safetensors;
mod scan;
pub(crate) mod side_file;
pub mod side_files;
mod source;
pub(crate) mod tokenizer;
mod weight_files;
mod wrappers;

pub use checkpoint::{Checkpoint, Whole};
pub(crate) use edit::with_needed;
pub(crate) use own::{cache_folder, folder_of, free_bytes, readable_by_all};
pub(crate) use scan::nonfinite_count;
pub(crate) use side_file::{read_text, read_whole, regular_len};
pub use source::{Cut, Layout, RawTensor, SideFile, Source, Stored};
pub(crate) use weight_files::has_extension;
