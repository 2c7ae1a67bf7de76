//! `verify`: reads an output back as an engine would, and compares it with the input that it was made from.

mod adapter;
mod alone;
mod check;
mod compare;

pub(crate) use alone::verify_alone;
pub(crate) use check::{TensorCheck, Verification};
pub(crate) use compare::{recorded_recipe, verify};
