//! What `llmc bench kernels` measures: first whether the kernels are right on fresh random numbers, then how long they take.
//!
//! All of it works on any [`Device`](super::Device), so that the tests check on the emulator what runs on a GPU. Prints nothing and
//! writes nothing.

mod check;
mod checks;
mod made;
mod report;
mod shapes;
mod statistics;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod timing;
mod tune;

pub use check::{Checked, check_dequantize, check_product, check_rounded_product};
pub use checks::{Check, Outcome, every_check};
pub use made::{Case, Weights};
pub use report::{Machine, Report};
pub use shapes::{Layer, MODELS, layers};
pub use statistics::Times;
pub use timing::{Ceilings, Timed, Timing, ceilings, time_layer};
pub use tune::tune;
