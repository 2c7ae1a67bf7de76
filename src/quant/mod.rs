//! Quantization methods: one method, one file.

pub mod autoround;
pub mod awq;
pub mod eora;
pub mod gptq;
pub mod hqq;
pub mod mse;
pub mod rotate;
pub mod rtn;
pub mod scaling;
pub mod smoothquant;
