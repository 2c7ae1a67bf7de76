//! `verify`: reads an output back as an engine would, and compares it with the input that it was made from.

mod alone;
mod check;
mod compare;

pub use alone::verify_alone;
pub use check::{TensorCheck, Verification};
pub use compare::{recorded_recipe, verify};
