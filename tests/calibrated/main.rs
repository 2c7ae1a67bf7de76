//! Recipes that run the model, from outside: stopped anywhere they go on and end with the same bytes; experts that no token
//! reaches, several outputs of one run, rotated models, scales of rewritten weights, shipped recipes, records, static scales, and what is said where something is wrong.
#![allow(clippy::unwrap_used)]

mod adapter;
mod budget;
#[path = "../common/mod.rs"]
mod common;
mod experts;
mod first_hour;
mod known;
mod mistakes;
mod model;
mod outputs;
mod recipes;
mod record;
mod resume;
mod rewritten;
mod scales;
