//! [`ModelRespondent`]: answers questions with a loaded model.

use super::runner::{Monitor, Runner};
use super::{likelihoods, tokens, writing};
use crate::engine::{ChatTemplate, Message, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::tasks::definition::Generate;
use crate::eval::tasks::question::Pair;
use crate::eval::tasks::respondent::Respondent;
use crate::eval::tasks::scoring::Likelihood;

/// A model that answers questions.
pub(crate) struct ModelRespondent<'a, R> {
    /// The runner of the model.
    pub runner: R,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's chat template, if prompts are conversations.
    pub chat: Option<ChatTemplate>,
    /// The number of positions that the model supports.
    pub context: usize,
    /// The limit on the tokens in the slots of one batch.
    pub budget: usize,
    /// The monitor of the work.
    pub monitor: Monitor<'a>,
}

impl<R: Runner> Respondent for ModelRespondent<'_, R> {
    fn chat(&self, messages: &[(&str, &str)]) -> Result<String> {
        let template = self
            .chat
            .as_ref()
            .ok_or_else(|| Error::usage("this model has no chat template", "leave --chat out"))?;
        let messages: Vec<_> = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        template.render(&messages, true)
    }

    fn likelihoods(&mut self, questions: &[&[Pair]]) -> Result<Vec<Vec<Likelihood>>> {
        let requests = tokens::requests(self.tokenizer, self.context, questions)?;
        likelihoods::all(&mut self.runner, &requests, self.budget, &self.monitor)
    }

    fn write(&mut self, contexts: &[&str], settings: &Generate) -> Result<Vec<String>> {
        let prompts = tokens::prompts(self.tokenizer, self.context, contexts, settings.max_tokens)?;
        writing::all(&mut self.runner, self.tokenizer, &prompts, settings, self.budget, &self.monitor)
    }
}
