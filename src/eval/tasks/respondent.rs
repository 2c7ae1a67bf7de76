//! The subject of an examination.

use super::definition::Generate;
use super::question::Pair;
use super::scoring::Likelihood;
use crate::error::Result;

/// A subject that answers questions: a model, or a table of answers in tests.
pub trait Respondent {
    /// Renders a conversation of (role, content), up to the start of the assistant's next turn.
    fn chat(&self, messages: &[(&str, &str)]) -> Result<String>;
    /// The likelihoods of the pairs of each question.
    fn likelihoods(&mut self, questions: &[&[Pair]]) -> Result<Vec<Vec<Likelihood>>>;
    /// Continues each context greedily, up to one of the ends in `settings`.
    fn write(&mut self, contexts: &[&str], settings: &Generate) -> Result<Vec<String>>;
}
