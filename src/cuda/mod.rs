//! Packed INT4 and INT8 weights on NVIDIA GPUs: one safe wrapper for each kernel in `kernels/`, with the same name.
//!
//! [`PackedMatrix`] is the one layout of all kernels; the host makes it from a `QTensor`. A [`Weight`] is such a matrix
//! in a device's memory. A wrapper checks shapes, types, alignment and device, computes the grid, and launches on a
//! [`Device`]: the driver's ([`open`], with feature `cuda`) or the emulator of the tests. [`DeviceLinear`] chooses the
//! wrapper by a [`KernelTable`]. If memory or a GPU is missing, the functions return an `Error` with a hint; they do
//! not panic.

mod buffer;
mod choice;
mod dense_product;
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
mod open;
mod packed;
mod problem;
mod product;
mod quantize_activations;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod types;
mod w8a8;
mod workspace;

pub use buffer::Buffer;
pub use choice::{Choice, KernelTable, ProductKernel, TunedChoice};
pub use dense_product::DenseProduct;
pub use dequantize::{dequantize, dequantize_and_multiply};
pub use device::{Device, Launch, Properties};
pub use gemm::{TILE_ROWS, gemm};
pub use gemm_sm90::gemm_sm90;
pub use gemm_small::gemm_small;
pub use gemv::gemv;
pub use linear::{DeviceLinear, multiply};
pub use matrix::{Matrix, Weight, upload_vector};
#[cfg(feature = "candle-cuda")]
pub use open::adopt;
pub use open::open;
pub use packed::PackedMatrix;
pub use problem::Problem;
pub use product::PackedProduct;
pub use quantize_activations::{QuantizedActivations, quantize_activations};
pub use types::{Bits, Half};
pub use w8a8::{Int8Product, TILE_ROWS as W8A8_TILE_ROWS, w8a8};
pub use workspace::Workspace;
