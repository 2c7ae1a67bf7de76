//! Quantization methods: one method, one file.

pub mod hqq;
pub mod mse;
pub mod rtn;
pub mod scaling;
