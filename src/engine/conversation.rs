//! A conversation with a model: the turns so far are the context of the next answer.
//!
//! The tokens that the model has read stay in its cache. Where the text of a conversation does not continue what was read
//! (some templates leave parts of old answers out), it is read anew from its start.

use super::chat::{ChatTemplate, Message};
use super::generate::{Generation, Limits};
use super::model::LanguageModel;
use super::sampling::Sampler;
use super::sequence::Sequence;
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Appends tokens to the conversation's sequence and returns the logits of the next token.
pub type Forward<'a> = Box<dyn FnMut(&[u32]) -> Result<Vec<f32>> + 'a>;

/// A conversation with a model.
pub struct Conversation<'a> {
    model: &'a LanguageModel,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    system: Option<String>,
    messages: Vec<Message>,
    sequence: Sequence<'a>,
    /// The tokens in the sequence.
    read: Vec<u32>,
}

impl<'a> Conversation<'a> {
    /// Begins a conversation.
    ///
    /// # Errors
    /// A cache that cannot be made.
    pub fn new(
        model: &'a LanguageModel,
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
    ) -> Result<Conversation<'a>> {
        let sequence = Sequence::new(model)?;
        Ok(Conversation {
            model,
            tokenizer,
            template,
            system: None,
            messages: Vec::new(),
            sequence,
            read: Vec::new(),
        })
    }

    /// Sets the system message; an empty one removes it.
    pub fn set_system(&mut self, text: &str) {
        self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
    }

    /// Forgets all turns; the system message stays.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Takes a question and begins its answer; also returns the number of tokens that the model reads for it. The answer
    /// counts as said when [`Conversation::answered`] is told it; a question without one must be taken back by
    /// [`Conversation::retract`].
    ///
    /// # Errors
    /// A conversation that the template refuses, or that is longer than the model's context.
    pub fn ask(
        &mut self,
        question: &str,
        sampler: Sampler,
        max_tokens: usize,
    ) -> Result<(Generation<'a, Forward<'_>>, usize)> {
        self.messages.push(Message::new("user", question));
        let prompt = self.prompt()?;
        let known = self.continue_from(&prompt)?;
        let ends = self.template.ends(self.tokenizer).into_iter().chain(self.tokenizer.eos().iter().copied());
        let limits = Limits {
            max_tokens,
            context: self.model.context_limit(),
            ends: ends.collect(),
            stops: Vec::new(),
        };
        let (tokenizer, count) = (self.tokenizer, prompt.len() - known);
        let Conversation { sequence, read, .. } = self;
        let mut skip = known; // the first call gets the whole prompt
        let forward: Forward = Box::new(move |tokens| {
            let new = &tokens[std::mem::take(&mut skip)..];
            let logits = sequence.forward(new)?;
            read.extend(new);
            Ok(logits)
        });
        Ok((Generation::new(forward, tokenizer, prompt, sampler, limits)?, count))
    }

    /// Adds the answer to the last question to the conversation.
    pub fn answered(&mut self, text: &str) {
        self.messages.push(Message::new("assistant", text));
    }

    /// Forgets the last question, which got no answer.
    pub fn retract(&mut self) {
        self.messages.pop();
    }

    fn prompt(&self) -> Result<Vec<u32>> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        self.tokenizer.encode(&self.template.render(&messages, true)?, false)
    }

    /// Keeps what the model has read if a prompt begins with it; returns its length. One token is left to read at least.
    fn continue_from(&mut self, prompt: &[u32]) -> Result<usize> {
        let whole = self.sequence.len() == self.read.len(); // not after an error
        if !whole || self.read.len() >= prompt.len() || !prompt.starts_with(&self.read) {
            self.sequence = Sequence::new(self.model)?;
            self.read.clear();
        }
        Ok(self.read.len())
    }
}
