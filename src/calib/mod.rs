//! Calibration: the token sequences that a model is run on, and what its linears read on the way.
//!
//! [`data`] makes sequences of texts, tables of rows, conversations, or of what the model itself writes; [`observe`] looks
//! at what flows through a block.

pub mod data;
pub mod observe;

pub use data::{Calibration, Drawn, Samples};
pub use observe::{Observing, Seen};
