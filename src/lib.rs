//! llmc compresses language models. This is the way of a checkpoint through the crate:
//!
//! 1. [`cli`] parses the command; a [`job`] does it, and a Rust program can call the job instead;
//! 2. [`io`] opens the input: headers are read, shards are mapped, tensors get their Hugging Face names;
//! 3. [`registry`] looks up the names of a [`recipe`], and [`plan`] resolves it on the checkpoint into a printable
//!    [`plan::Plan`];
//! 4. [`pipeline`] streams rows of each tensor through the recipe's stages, or runs decoder block after decoder block, with
//!    the statistics of inputs that [`calib`] gathers;
//! 5. a method ([`quant`]) rounds only through a [`numerics::Scheme`];
//! 6. a [`plan::Format`] ([`export`]) lays the codes out, and the pipeline writes them;
//! 7. `verify` ([`pipeline::verify`]) reads the output back.
//!
//! Quantize a model and measure the loss:
//!
//! ```
//! use llmc::job::{BaseModel, Destination, Perplexity, Quantize, Silent};
//! use llmc::{eval::windows::Protocol, recipe::Recipe};
//!
//! # fn main() -> llmc::Result<()> {
//! # let folder = tempfile::tempdir().map_err(|e| llmc::Error::io("temporary folder", e))?;
//! # let (model, text) = (concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-llama"), concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
//! # let output = folder.path().join("tiny-w4a16");
//! let recipe = Recipe { scheme: Some("w4a16".into()), group_size: Some(32), ..Recipe::default() };
//! let destination = Destination { output: Some(output.clone()), ..Destination::default() };
//! let job = Quantize { model: model.into(), recipe, destination, ..Quantize::default() };
//! let quantized = job.run(&Silent)?;
//!
//! let mut score = Perplexity::new(output.to_string_lossy(), text);
//! score.protocol = Protocol::Chunks { context: 64 };
//! score.windows = Some(2);
//! score.base = Some(BaseModel { cache: None, ..BaseModel::new(model) });
//! let comparison = score.run(&Silent)?.summary.comparison.expect("there is a base");
//! println!("{:.2} bits per weight", quantized[0].bits_per_weight);
//! println!("KL divergence {:.4} nats", comparison.kld.mean.value);
//! # assert!(quantized[0].bits_per_weight < 17.0 && comparison.kld.mean.value > 0.0);
//! # Ok(())
//! # }
//! ```

#![warn(unreachable_pub)] // `pub` is what a Rust user may call; the rest is `pub(crate)`.

pub mod backend;
pub mod calib;
pub mod cli;
pub mod corpus;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
mod heap;
pub mod io;
mod jinja;
pub mod job;
mod json;
pub mod model;
mod names;
pub mod numerics;
mod panics;
pub mod pipeline;
pub mod plan;
mod prune;
pub mod quant;
pub mod recipe;
pub mod registry;
mod similar;
pub mod stage;
pub mod statistics;
pub mod tensor;
#[cfg(test)]
mod test_support;
pub use error::{Error, Result};
