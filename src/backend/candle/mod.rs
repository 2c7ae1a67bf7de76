//! The backend on candle: plain tensor operations, each of which passes gradients on to weights and activations, on the
//! CPU or on a GPU (feature `candle-cuda`; without it the same calls return an error).
//!
//! Weights are dequantized when they are loaded, but for packed integers on a GPU, which llmc's own kernels multiply. Activations are in one of f32, f16 and bf16; what transformers computes
//! in f32 whatever the type (norms, rotations, softmax, the router, activation functions) is computed in f32 here too, and
//! rounded once. Limits: the cache holds values without their history, so no gradient passes through it; second
//! derivatives are not kept (candle detaches them).

mod attention;
mod backend;
mod cache;
mod cpu_ops;
mod machine;
mod ops;
#[cfg(feature = "candle-cuda")]
mod packed;
mod weights;

pub use cache::KeyValues;
pub use machine::{Candle, Device};
pub use weights::{Linear, Norm, Table};

#[cfg(test)]
mod tests;
