//! The lists of methods and formats, and recipes resolved against them.

mod methods;
mod overrides;
mod resolve;

pub use methods::{METHODS, pruning, shaping};
