//! What a model is worth, in numbers: perplexity and divergence from a base, over text, by the definitions of the tools that
//! people compare with. Loads models through `engine`; prints nothing.

pub mod base;
pub mod data;
pub mod softmax;
pub mod statistics;
pub mod summary;
pub mod windows;
