//! Measures the quality of a model: perplexity of a text and divergence from a base, embeddings, benchmark tasks. Uses the
//! definitions of the usual tools, so that figures compare. Prints nothing.

pub mod arrays;
pub mod base;
pub mod corpus;
pub mod embeddings;
mod model;
pub mod perplexity;
pub mod positions;
pub mod softmax;
pub mod statistics;
pub mod summary;
pub mod tasks;
mod temporary;
pub mod windows;
