//! Jobs: what a command does, as library functions.

pub mod card;
