//! A language model as a [`Respondent`](super::Respondent): [`ModelRespondent`].
//!
//! [`tokens`] tokenizes questions, [`plan`] orders them into batches, [`likelihoods`] and [`writing`] run the batches on a
//! [`Runner`], and [`memory`] sets their size.

pub(crate) mod likelihoods;
pub(crate) mod memory;
pub(crate) mod plan;
mod respondent;
mod runner;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod test_support;
pub(crate) mod tokens;
pub(crate) mod writing;

pub(crate) use self::respondent::ModelRespondent;
pub(crate) use self::runner::{ModelRunner, Monitor};
