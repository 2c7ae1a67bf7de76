//! A model as a [`Respondent`]: texts to tokens ([`tokens`]), questions to batches ([`plan`]), batches to likelihoods
//! ([`likelihoods`]) and to texts ([`writing`]), within the memory there is ([`memory`]).

pub mod likelihoods;
pub mod memory;
pub mod plan;
pub mod tokens;
pub mod writing;

use std::sync::atomic::{AtomicBool, Ordering};

use super::Respondent;
use super::definition::Generate;
use super::question::Pair;
use super::scoring::Likelihood;
use crate::engine::{Cache, ChatTemplate, LanguageModel, Message, Tokenizer};
use crate::error::{Error, Result};
use crate::model::Batch;

/// Is given the number of a logits row, among those asked for, and the row itself.
pub type See<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + Send + 'a;

/// What runs batches: a model, or in tests a rule.
pub trait Runner {
    /// Sees to it that there are so many slots. What they held may be lost.
    fn make_slots(&mut self, count: usize) -> Result<()>;
    /// Makes slot `to` a copy of the first `len` tokens of slot `from`.
    fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()>;
    /// Runs a batch, and shows the logits of these of its rows.
    fn logits(&mut self, batch: &Batch, rows: &[u32], see: &mut See) -> Result<()>;
}

/// A loaded model, and the cache that it works with.
pub struct Loaded<'a> {
    model: &'a LanguageModel,
    cache: Option<Cache>,
}

impl<'a> Loaded<'a> {
    /// Without a slot yet.
    pub fn new(model: &'a LanguageModel) -> Loaded<'a> {
        Loaded { model, cache: None }
    }
}

impl Runner for Loaded<'_> {
    fn make_slots(&mut self, count: usize) -> Result<()> {
        if self.cache.as_ref().is_none_or(|cache| cache.slots() < count) {
            self.cache = Some(self.model.cache(count)?);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        let cache = self.cache.as_mut().expect("slots are made before they are filled");
        self.model.copy(cache, from, to, len)
    }

    fn logits(&mut self, batch: &Batch, rows: &[u32], see: &mut See) -> Result<()> {
        let vocabulary = self.model.vocabulary();
        self.model.logits(batch, self.cache.as_mut(), rows, |range, values| {
            range.zip(values.chunks_exact(vocabulary)).try_for_each(|(row, logits)| see(row, logits))
        })
    }
}

/// What is said of the work as it goes on.
pub struct Watch<'a> {
    /// Set to stop between two batches.
    pub interrupted: &'a AtomicBool,
    /// Is given how many of a task's questions are answered, and how many there are.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Watch<'_> {
    fn answered(&self, answered: usize, all: usize) -> Result<()> {
        (self.progress)(answered, all);
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted { hint: "nothing was kept: run the same command again".into() }),
            false => Ok(()),
        }
    }
}

/// A model that is asked.
pub struct Examinee<'a, R> {
    /// What runs it.
    pub runner: R,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template, where prompts are conversations.
    pub chat: Option<ChatTemplate>,
    /// Positions that it was made for.
    pub context: usize,
    /// Tokens that the slots of one batch may hold.
    pub budget: usize,
    /// Who looks on.
    pub watch: Watch<'a>,
}

impl<R: Runner> Respondent for Examinee<'_, R> {
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
        likelihoods::all(&mut self.runner, &requests, self.budget, &self.watch)
    }

    fn write(&mut self, contexts: &[&str], how: &Generate) -> Result<Vec<String>> {
        let prompts = tokens::prompts(self.tokenizer, self.context, contexts, how.max_tokens)?;
        writing::all(&mut self.runner, self.tokenizer, &prompts, how, self.budget, &self.watch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    /// Runs batches by a rule: logits depend on every token before them, so that a slot that holds the wrong ones shows.
    pub struct Rule {
        /// Values of a row.
        pub vocabulary: usize,
        /// What each slot holds.
        pub slots: Vec<Vec<u32>>,
    }

    impl Default for Rule {
        fn default() -> Self {
            Rule { vocabulary: 11, slots: vec![] }
        }
    }

    impl Rule {
        fn row(&self, tokens: &[u32]) -> Vec<f32> {
            let mixed =
                tokens.iter().fold(17u32, |mixed, token| mixed.wrapping_mul(31).wrapping_add(token + 1));
            (0..self.vocabulary as u32)
                .map(|i| (mixed.wrapping_mul(i * 2 + 1) >> 16) as f32 / 8192.0)
                .collect()
        }
    }

    impl Runner for Rule {
        fn make_slots(&mut self, count: usize) -> Result<()> {
            self.slots.resize(self.slots.len().max(count), vec![]);
            Ok(())
        }

        fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
            self.slots[to] = self.slots[from][..len].to_vec();
            Ok(())
        }

        fn logits(&mut self, batch: &Batch, rows: &[u32], see: &mut See) -> Result<()> {
            let mut prefixes = Vec::new();
            let mut tokens = batch.tokens.iter();
            for span in &batch.spans {
                self.slots[span.slot].truncate(span.past);
                assert_eq!(self.slots[span.slot].len(), span.past, "a slot holds less than it should");
                for token in tokens.by_ref().take(span.len) {
                    self.slots[span.slot].push(*token);
                    prefixes.push(self.slots[span.slot].clone());
                }
            }
            rows.iter().enumerate().try_for_each(|(i, &row)| see(i, &self.row(&prefixes[row as usize])))
        }
    }

    pub fn watch() -> Watch<'static> {
        static INTERRUPTED: AtomicBool = AtomicBool::new(false);
        Watch { interrupted: &INTERRUPTED, progress: &|_, _| () }
    }

    pub fn tokenizer() -> Tokenizer {
        crate::test_support::tokenizer("tiny-llama")
    }

    #[test]
    fn an_interruption_ends_the_work() {
        let interrupted = AtomicBool::new(true);
        let watch = Watch { interrupted: &interrupted, progress: &|_, _| () };
        let requests = vec![vec![tokens::Request { input: vec![1], targets: vec![2] }]];
        let error = likelihoods::all(&mut Rule::default(), &requests, 9, &watch).unwrap_err();
        assert_eq!(error.exit_code(), 130);
    }
}
