//! The measurements of `llmc bench kernels`: first the correctness of the kernels on new random numbers, then their
//! times.
//!
//! Everything works on any [`Device`](super::device::Device), so that the tests run the same checks on the emulator.
//! Nothing is printed or written here.

mod check;
mod checks;
mod operands;
mod report;
mod shapes;
mod statistics;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod timing;
mod tune;

pub use check::{Accuracy, check_dequantize, check_product, check_rounded_product};
pub(crate) use checks::{Outcome, every_check};
pub use operands::{ProductCase, WeightFormat};
pub(crate) use report::{KernelReport, Machine};
pub use shapes::Layer;
pub(crate) use shapes::layers;
pub use statistics::Times;
pub(crate) use timing::ceilings;
pub use timing::{LayerTiming, TimingOptions, time_layer};
pub use tune::tune;
