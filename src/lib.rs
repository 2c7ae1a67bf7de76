//! llmc compresses language models. What happens to a checkpoint:
//!
//! 1. [`cli`] parses the command into a [`recipe::Recipe`];
//! 2. [`io`] opens the input: headers read, shards mapped, tensors under their Hugging Face names;
//! 3. [`plan`] resolves recipe × checkpoint × format into a printable [`plan::Plan`];
//! 4. [`pipeline`] streams row ranges of each tensor through a [`method::Method`], or, where it needs to know what flows
//!    through the model, decoder blocks with what [`calib`] has seen of them,
//! 5. which rounds only through a [`numerics::Scheme`];
//! 6. an [`export::Format`] lays the codes out, and the pipeline writes them;
//! 7. `verify` reads back what was written.

pub mod backend;
pub mod calib;
pub mod cli;
pub mod corpus;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
pub mod io;
pub mod method;
pub mod model;
pub mod numerics;
pub mod pipeline;
pub mod plan;
pub mod quant;
pub mod recipe;
pub mod statistics;
pub mod tensor;
#[cfg(test)]
mod test_support;

pub use error::{Error, Result};
