//! Texts and rows that the user names: files, standard input, datasets in the hub's cache. What a model is measured on and
//! calibrated with is read here, once. Downloads nothing, knows no model.
//!
//! [`Source`] finds what a name stands for; [`rows`] reads tables; [`Text`] makes one text of it all; [`cache`] is where the
//! hub's datasets lie.

pub mod cache;
mod dataset;
pub mod rows;
mod source;
mod text;

pub use source::{Content, Source};
pub use text::Text;
