//! Backends. [`Backend`] is the short list of operations that every model is written in; `cpu` runs
//! packed weights for evaluation and generation, `candle` keeps gradients and reaches a GPU.
//!
//! Activations are matrices of one row per token. The tokens of several sequences lie one after the other, each sequence
//! contiguous ([`Span`]), so that batches are ragged and nothing is padded. Knows no file and no architecture.

pub mod candle;
pub mod cpu;
mod device;
mod operations;
mod wrapper;

pub use device::Device;
pub use operations::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
pub use wrapper::Wrapper;

#[cfg(test)]
pub(crate) mod tests;
