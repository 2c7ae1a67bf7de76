//! Quantization methods: one method, one file.

pub(crate) mod autoround;
pub mod awq;
pub(crate) mod eora;
pub(crate) mod gptq;
pub(crate) mod hqq;
pub(crate) mod mse;
pub mod rotate;
pub mod rtn;
pub mod scaling;
pub mod smoothquant;
