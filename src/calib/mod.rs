//! Calibration: the token sequences that a model is run on, and what its linears read on the way.
//!
//! [`data`] makes sequences of texts, tables of rows, conversations, or of what the model itself writes; [`observe`] looks
//! at what flows through a block; [`store`] keeps on disk what was seen, [`imatrix`] what llama.cpp needs of it, and either is
//! [`PriorStatistics`] to a later run; [`trainable`] makes of a block a function whose gradients methods descend.

pub mod data;
pub mod imatrix;
pub(crate) mod observe;
mod prior;
pub mod store;
pub(crate) mod trainable;

pub use data::{Samples, SourceSamples};
pub(crate) use observe::{InputStatistics, Observing};
pub use prior::PriorStatistics;
pub(crate) use trainable::TrainableBlock;
