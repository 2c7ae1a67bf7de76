//! The CPU backend: packed weights, pooled buffers, f32 activations between operations.

#[allow(dead_code)]
mod dense;
#[allow(dead_code)]
mod inputs;
#[allow(dead_code)]
mod int;
#[allow(dead_code)]
mod level;
pub mod linear;
#[allow(dead_code)]
mod packed;
#[allow(dead_code)]
mod pages;
