//! A language model as a [`Respondent`](super::Respondent): [`ModelRespondent`].
//!
//! [`tokens`] tokenizes questions, [`plan`] orders them into batches, [`likelihoods`] and [`writing`] run the batches on a
//! [`Runner`], and [`memory`] sets their size.

pub mod likelihoods;
pub mod memory;
pub mod plan;
mod respondent;
mod runner;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod test_support;
pub mod tokens;
pub mod writing;

pub use self::respondent::ModelRespondent;
pub use self::runner::{ModelRunner, Monitor, RowVisitor, Runner};
