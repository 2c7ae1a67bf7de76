//! The CPU backend: packed weights, pooled buffers, f32 activations between operations.

#[allow(dead_code)]
mod int;
#[allow(dead_code)]
mod packed;
