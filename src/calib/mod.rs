//! Calibration: the token sequences that a model is run on to see what its linears read.
//!
//! [`data`] makes them of texts, tables of rows, conversations, or of what the model itself writes.

pub mod data;

pub use data::{Calibration, Drawn, Samples, Watch};
