//! Opening of GPUs. Without feature `cuda`, the same function returns an error.

use super::device::Device;
#[cfg(feature = "cuda")]
use super::driver::Gpu;
#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;

/// Opens a GPU by its number, from 0.
///
/// # Errors
/// If llmc was built without feature `cuda`, if there is no driver, if it is too old, or if there is no such GPU.
#[cfg(feature = "cuda")]
pub fn open(ordinal: usize) -> Result<Box<dyn Device>> {
    Ok(Box::new(Gpu::open(ordinal)?))
}

/// Opens a GPU by its number, from 0.
///
/// # Errors
/// Always: llmc was built without feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub fn open(ordinal: usize) -> Result<Box<dyn Device>> {
    let hint =
        "build with `--features cuda` (needs nvcc: see kernels/toolkit.sh), or run on the CPU".to_owned();
    Err(Error::Device { what: format!("GPU {ordinal}: this llmc was built without CUDA"), hint })
}

/// Adopts the GPU of a stream, to queue work on that stream.
///
/// # Errors
/// If the driver is too old.
#[cfg(feature = "candle-cuda")]
pub(crate) fn adopt(stream: std::sync::Arc<cudarc::driver::CudaStream>) -> Result<Box<dyn Device>> {
    Ok(Box::new(Gpu::adopt(stream)?))
}
