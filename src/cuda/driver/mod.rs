//! Devices of the CUDA driver, with feature `cuda`.

mod error;
mod gpu;
mod library;

pub(crate) use gpu::Gpu;
