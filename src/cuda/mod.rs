//! Packed INT4 and INT8 weights on NVIDIA GPUs: safe wrappers, each named like its kernel in `kernels/`.
//!
//! [`Packed`] is the one layout of all kernels, made from a `QTensor` on the host; a [`Weight`] is one in a device's memory. A
//! wrapper checks shapes, types, alignment and device, computes the grid, and launches on a [`Device`]: the driver's
//! ([`open`], with feature `cuda`), or the emulator of the tests. [`Linear`] chooses the wrapper by a [`Table`]. Nothing here
//! panics for want of memory or of a GPU: those are `Error`s with hints.

mod choice;
mod dequantize;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod gemm;
mod gemm_sm90;
mod gemm_small;
mod gemv;
mod layout;
mod linear;
mod matrix;
pub mod measure;
mod packed;
mod product;
mod quantize_activations;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod types;
mod w8a8;
mod workspace;

pub use choice::{Choice, Kernel, Problem, Table, Tuned};
pub use dequantize::{dequantize, dequantize_and_multiply};
pub use device::{Buffer, DenseProduct, Device, Launch, Properties};
pub use gemm::{TILE_ROWS, gemm};
pub use gemm_sm90::gemm_sm90;
pub use gemm_small::{MOST_ROWS, gemm_small};
pub use gemv::gemv;
pub use linear::{Linear, multiply};
pub use matrix::{Matrix, Weight, upload_vector};
pub use packed::Packed;
pub use product::Product;
pub use quantize_activations::{Rounded, quantize_activations};
pub use types::{Bits, Half};
pub use w8a8::{RoundedProduct, TILE_ROWS as W8A8_TILE_ROWS, round_and_multiply, w8a8};
pub use workspace::Workspace;

#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;

/// Opens a GPU by its number, from 0.
///
/// # Errors
/// Where llmc was built without feature `cuda`; without a driver, with one that is too old, without such a GPU.
pub fn open(ordinal: usize) -> Result<Box<dyn Device>> {
    open_gpu(ordinal)
}

/// The GPU of a stream, to queue work on that stream.
///
/// # Errors
/// A driver that is too old.
#[cfg(feature = "candle-cuda")]
pub fn adopt(stream: std::sync::Arc<cudarc::driver::CudaStream>) -> Result<Box<dyn Device>> {
    Ok(Box::new(driver::Gpu::adopt(stream)?))
}

#[cfg(feature = "cuda")]
fn open_gpu(ordinal: usize) -> Result<Box<dyn Device>> {
    Ok(Box::new(driver::Gpu::open(ordinal)?))
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(ordinal: usize) -> Result<Box<dyn Device>> {
    let hint =
        "build with `--features cuda` (needs nvcc: see kernels/toolkit.sh), or run on the CPU".to_owned();
    Err(Error::Device { what: format!("GPU {ordinal}: this llmc was built without CUDA"), hint })
}
