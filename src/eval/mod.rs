//! What a model is worth, in numbers: perplexity and divergence from a base, over text, by the definitions of the tools that
//! people compare with; and how well it answers benchmarks. Prints nothing.

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
pub mod windows;
