//! Reading checkpoints: whatever is on disk or on the hub becomes one [`Checkpoint`] of logical tensors under their
//! Hugging Face names. Knows files and formats; knows no method.
//!
//! Every input is hostile until validated: headers are parsed with checked arithmetic, and nothing is allocated for a
//! size that the file does not back.

mod checkpoint;
pub mod gguf;
pub mod hub;
pub mod index;
pub mod map;
mod open;
pub mod quantized;
pub mod safetensors;
mod scan;
pub mod side_files;
pub mod tokenizer;

use std::env;
use std::path::PathBuf;

pub use checkpoint::{Checkpoint, RawTensor, SideFile, Source, Stored};
pub use scan::nonfinite_count;

/// What llmc keeps for later runs: `$XDG_CACHE_HOME/llmc`, or `~/.cache/llmc`; `None` where there is no home.
pub fn cache_folder() -> Option<PathBuf> {
    let caches = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(caches.or_else(|| Some(env::home_dir()?.join(".cache")))?.join("llmc"))
}
