//! Texts and rows that the user names, for evaluation and calibration: files, standard input, datasets in the hub's cache.
//! Downloads nothing, knows no model.
//!
//! [`TextSource`] resolves a name; [`rows`] reads tables; [`Text`] joins everything into one text; [`cache`] searches the hub's
//! cache of datasets.

pub(crate) mod cache;
mod dataset;
mod encoding;
mod pages;
pub mod rows;
mod source;
mod text;

pub(crate) use source::{Content, TextSource};
pub(crate) use text::{Text, warn_of_null_rows};
