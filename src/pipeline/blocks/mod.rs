//! Everything that runs the model block by block over the calibration set: the loop that carries a recipe's stages out,
//! the gathering of statistics, and the measurement of sensitivities and of outliers.

mod batches;
mod block_loop;
mod calibrate;
mod chain;
mod compensate;
mod compress;
mod ends;
mod estimate;
mod fit;
mod layouts;
mod load;
mod machine;
mod measurements;
mod observe;
mod outliers;
mod passes;
mod report;
mod runner;
mod scales;
mod sensitivity;
mod units;
mod weights;
mod work;

#[cfg(test)]
mod tests;

pub(crate) use batches::Batches;
pub(crate) use block_loop::BlockLoop;
pub(crate) use calibrate::recall;
pub use calibrate::{Survey, calibrate};
pub(crate) use chain::Chain;
pub(crate) use ends::{ends, untie};
pub(crate) use estimate::{Estimate, estimate, hidden_state_bytes};
pub(crate) use fit::Fitted;
pub(crate) use layouts::{layouts, stored_layouts, unobserved};
pub(crate) use machine::{Machine, check_device, key as machine_key};
pub(crate) use measurements::{Files, read_measured};
pub(crate) use outliers::outliers;
pub(crate) use passes::not_finite;
pub use report::{BlockReport, ExpertReport, LinearReport};
pub use runner::CalibrationInput;
pub(crate) use runner::Runner;
pub(crate) use sensitivity::{sensitivity, unmeasured};
