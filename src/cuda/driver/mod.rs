//! The driver's devices, with feature `cuda`.

mod gpu;
mod library;

pub use gpu::Gpu;
