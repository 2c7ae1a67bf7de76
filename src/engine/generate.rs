//! The generation loop: appends the model's next token until a limit is reached.
//!
//! [`Generation`] knows no model: a closure computes the logits.

use super::sampling::Sampler;
use super::stream::TextStream;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// The conditions that end a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of tokens to generate.
    pub max_tokens: usize,
    /// The number of the model's positions, for prompt and answer.
    pub context: Option<usize>,
    /// Tokens that end the text; they are not part of it.
    pub ends: Vec<u32>,
    /// Strings that end the text; they are not part of it.
    pub stops: Vec<String>,
}

/// The reason that a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of [`Limits::ends`].
    End,
    /// One of [`Limits::stops`].
    Stop,
    /// [`Limits::max_tokens`].
    Length,
    /// [`Limits::context`].
    Context,
}

/// A generation in progress. `F` appends tokens to the model's sequence and returns the logits of the next token.
pub struct Generation<'a, F> {
    forward: F,
    sampler: Sampler,
    stream: TextStream<'a>,
    limits: Limits,
    /// The tokens that the model has not processed yet: the prompt at first, then the last token.
    pending: Vec<u32>,
    /// The number of tokens in the sequence, including pending ones.
    length: usize,
    generated: usize,
    finish: Option<FinishReason>,
}

impl<'a, F: FnMut(&[u32]) -> Result<Vec<f32>>> Generation<'a, F> {
    /// Starts a generation.
    ///
    /// # Errors
    /// A prompt that is empty or longer than the model's context.
    pub fn new(
        forward: F,
        tokenizer: &'a Tokenizer,
        prompt: Vec<u32>,
        sampler: Sampler,
        limits: Limits,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::usage("the prompt is empty", "give a text to continue"));
        }
        if let Some(context) = limits.context.filter(|context| prompt.len() > *context) {
            let what = format!("the prompt is {} tokens long, the model's context {context}", prompt.len());
            return Err(Error::usage(what, "shorten the prompt"));
        }
        Ok(Generation {
            forward,
            sampler,
            stream: TextStream::new(tokenizer, limits.stops.clone()),
            limits,
            length: prompt.len(),
            pending: prompt,
            generated: 0,
            finish: None,
        })
    }

    /// Generates one token. Returns the text that can no longer change, which may be empty; `None` at the end.
    pub fn next_piece(&mut self) -> Result<Option<String>> {
        if self.finish.is_none() && self.generated == self.limits.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
        if self.finish.is_none() && self.limits.context.is_some_and(|context| self.length > context) {
            self.finish = Some(FinishReason::Context);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        let logits = (self.forward)(&self.pending)?;
        let token = self.sampler.choose(&logits)?;
        if self.limits.ends.contains(&token) {
            self.finish = Some(FinishReason::End);
            return Ok(None);
        }
        self.pending = vec![token];
        self.length += 1;
        self.generated += 1;
        let text = self.stream.push(token)?;
        self.finish = self.stream.stopped().then_some(FinishReason::Stop);
        Ok(Some(text))
    }

    /// The number of generated tokens.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// Ends the generation. Returns the remaining text, and the reason of the end (`None` before a regular end).
    pub fn finish(self) -> Result<(String, Option<FinishReason>)> {
        Ok((self.stream.finish()?, self.finish))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sampling::Sampling;
    use super::*;
    use crate::test_support;

    fn tokenizer() -> Tokenizer {
        test_support::tokenizer("tiny-llama")
    }

    /// Runs a model that generates `answer` and then token 2. Returns the text, the reason of the end, and the tokens of
    /// each forward pass.
    fn run(
        prompt: &[u32],
        answer: &str,
        limits: Limits,
    ) -> Result<(String, Option<FinishReason>, Vec<Vec<u32>>)> {
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
        while let Some(piece) = generation.next_piece()? {
            text += &piece;
        }
        let (rest, finish) = generation.finish()?;
        Ok((text + &rest, finish, shown))
    }

    #[test]
    fn each_finish_reason_is_reported() {
        let check = |limits: Limits, text: &str, finish: FinishReason| {
            let (found, ended, _) = run(&[5, 6, 7], "one two 🦙", limits).unwrap();
            assert_eq!((found.as_str(), ended), (text, Some(finish)));
        };
        let all = Limits { max_tokens: 100, ..Limits::default() };
        check(all.clone(), "one two 🦙", FinishReason::End);
        check(Limits { stops: vec![" tw".into()], ..all.clone() }, "one", FinishReason::Stop);
        check(Limits { max_tokens: 0, ..all.clone() }, "", FinishReason::Length);
        let whole = tokenizer().encode("one two 🦙", false).unwrap().len();
        check(Limits { max_tokens: whole, ..all.clone() }, "one two 🦙", FinishReason::Length);
        // The last token in a full context does not go through the model again.
        check(Limits { context: Some(3 + whole), ..all.clone() }, "one two 🦙", FinishReason::End);
        check(Limits { context: Some(3 + whole - 1), ..all }, "one two 🦙", FinishReason::Context);
    }

    #[test]
    fn each_token_goes_through_the_model_once() {
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
