//! Hub ids → local folders through the standard cache (`models--org--name/snapshots/<commit>`).
//!
//! Only what llmc needs is downloaded: config, tokenizer and the files beside it, index and safetensors shards (or the one
//! `.gguf`). Transfers resume where they stopped. The network is given up when nothing arrives for
//! [`Hub::timeout`]: `hf-hub` sets no time limits, so it works in a thread of its own that is watched.

mod choice;
mod client;
mod download;
mod environment;
mod failure;
mod fetch;
mod id;

pub use client::Hub;
pub(crate) use id::cached_id;
pub use id::{Id, parse_id};
