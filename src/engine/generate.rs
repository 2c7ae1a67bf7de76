//! Generation: the model's next token, again and again, until something ends it.
//!
//! [`Generation`] knows no model: it is given what computes logits.

use super::{Sampler, TextStream, Tokenizer};
use crate::error::{Error, Result};

/// What ends a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Positions that the model has, for prompt and answer.
    pub context: Option<usize>,
    /// Tokens that end it; they are not part of the text.
    pub ends: Vec<u32>,
    /// Texts that end it; they are not part of it either.
    pub stops: Vec<String>,
}

/// What has ended a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model: one of [`Limits::ends`].
    End,
    /// One of [`Limits::stops`].
    Stop,
    /// [`Limits::max_tokens`].
    Length,
    /// [`Limits::context`].
    Context,
}

/// A text under generation. `F` appends tokens to the model's sequence, and gives the logits of the next.
pub struct Generation<'a, F> {
    forward: F,
    sampler: Sampler,
    stream: TextStream<'a>,
    limits: Limits,
    /// What the model has not seen yet: the prompt, later the token that was chosen last.
    unseen: Vec<u32>,
    /// Tokens in the sequence, seen or not.
    length: usize,
    generated: usize,
    finish: Option<Finish>,
}

impl<'a, F: FnMut(&[u32]) -> Result<Vec<f32>>> Generation<'a, F> {
    /// # Errors
    /// A prompt without tokens, or one that is longer than the model's context.
    pub fn new(
        forward: F,
        tokenizer: &'a Tokenizer,
        prompt: Vec<u32>,
        sampler: Sampler,
        limits: Limits,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::usage("the prompt is empty", "give the model some text to continue"));
        }
        if let Some(context) = limits.context.filter(|context| prompt.len() > *context) {
            let what = format!("the prompt is {} tokens long, the model's context {context}", prompt.len());
            return Err(Error::usage(what, "shorten the prompt"));
        }
        let (length, stream) = (prompt.len(), TextStream::new(tokenizer, limits.stops.clone()));
        let (unseen, generated, finish) = (prompt, 0, None);
        Ok(Generation { forward, sampler, stream, limits, unseen, length, generated, finish })
    }

    /// One more token; the text that it has made certain, which may be none. `None` once something has ended it.
    pub fn step(&mut self) -> Result<Option<String>> {
        if self.finish.is_none() && self.generated == self.limits.max_tokens {
            self.finish = Some(Finish::Length);
        }
        if self.finish.is_none() && self.limits.context.is_some_and(|context| self.length > context) {
            self.finish = Some(Finish::Context);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        let logits = (self.forward)(&self.unseen)?;
        let token = self.sampler.choose(&logits)?;
        if self.limits.ends.contains(&token) {
            self.finish = Some(Finish::End);
            return Ok(None);
        }
        self.unseen = vec![token];
        self.length += 1;
        self.generated += 1;
        let text = self.stream.push(token)?;
        self.finish = self.stream.stopped().then_some(Finish::Stop);
        Ok(Some(text))
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// The text that waited for more, and what ended the generation: `None` where it was left early.
    pub fn finish(self) -> Result<(String, Option<Finish>)> {
        Ok((self.stream.finish()?, self.finish))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Sampling;
    use super::*;
    use crate::test_support;

    fn tokenizer() -> Tokenizer {
        test_support::tokenizer("tiny-llama")
    }

    /// Runs a model that says `answer` and then token 2; gives the text, the end, and what the model was shown.
    fn run(prompt: &[u32], answer: &str, limits: Limits) -> Result<(String, Option<Finish>, Vec<Vec<u32>>)> {
        let tokenizer = tokenizer();
        let mut answer = tokenizer.encode(answer, false).unwrap().into_iter();
        let mut shown = Vec::new();
        let forward = |tokens: &[u32]| {
            shown.push(tokens.to_vec());
            let mut logits = vec![0.0; tokenizer.vocabulary_size()];
            logits[answer.next().unwrap_or(2) as usize] = 1.0;
            Ok(logits)
        };
        let sampler = Sampler::new(Sampling::GREEDY).unwrap();
        let limits = Limits { ends: vec![2], ..limits };
        let mut generation = Generation::new(forward, &tokenizer, prompt.to_vec(), sampler, limits)?;
        let mut text = String::new();
        while let Some(piece) = generation.step()? {
            text += &piece;
        }
        let (rest, finish) = generation.finish()?;
        Ok((text + &rest, finish, shown))
    }

    #[test]
    fn each_end_is_told() {
        let check = |limits: Limits, text: &str, finish: Finish| {
            let (found, ended, _) = run(&[5, 6, 7], "one two 🦙", limits).unwrap();
            assert_eq!((found.as_str(), ended), (text, Some(finish)));
        };
        let all = Limits { max_tokens: 100, ..Limits::default() };
        check(all.clone(), "one two 🦙", Finish::End);
        check(Limits { stops: vec![" tw".into()], ..all.clone() }, "one", Finish::Stop);
        check(Limits { max_tokens: 0, ..all.clone() }, "", Finish::Length);
        let whole = tokenizer().encode("one two 🦙", false).unwrap().len();
        check(Limits { max_tokens: whole, ..all.clone() }, "one two 🦙", Finish::Length);
        // The last token that a context has room for is the one that need not be shown to the model again.
        check(Limits { context: Some(3 + whole), ..all.clone() }, "one two 🦙", Finish::End);
        check(Limits { context: Some(3 + whole - 1), ..all }, "one two 🦙", Finish::Context);
    }

    #[test]
    fn the_model_is_shown_each_token_once() {
        let (_, _, shown) = run(&[5, 6, 7], "ab", Limits { max_tokens: 9, ..Limits::default() }).unwrap();
        let answer = tokenizer().encode("ab", false).unwrap();
        let expected: Vec<Vec<u32>> =
            [vec![5, 6, 7]].into_iter().chain(answer.iter().map(|id| vec![*id])).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn prompts_must_fit() {
        let limits = Limits { max_tokens: 9, context: Some(2), ..Limits::default() };
        assert!(run(&[5, 6], "a", limits.clone()).is_ok());
        let error = run(&[5, 6, 7], "a", limits.clone()).unwrap_err();
        assert!(error.to_string().contains("3 tokens long, the model's context 2"), "{error}");
        let error = run(&[], "a", limits).unwrap_err();
        assert!(error.to_string().contains("empty") && error.exit_code() == 2, "{error}");
    }
}
