//! Tokenizes questions like lm-evaluation-harness (`_encode_pair` in `lm_eval/api/model.py`, `tok_encode` and
//! `_loglikelihood_tokens` in `lm_eval/models/huggingface.py`): tokenizes context and continuation together and splits them
//! after the context's own tokens.

use rayon::prelude::*;

use crate::engine::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::tasks::question::Pair;

/// A pair in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// The tokens to run: context and continuation, without the last token.
    pub input: Vec<u32>,
    /// The continuation. The last rows of the input predict it.
    pub targets: Vec<u32>,
}

impl Request {
    /// The index of the first row to score.
    pub(crate) fn first_row(&self) -> usize {
        self.input.len() - self.targets.len()
    }
}

/// Tokenizes the pairs of each question. An input longer than `limit` loses its beginning.
///
/// # Errors
/// A continuation that has no tokens or more than `limit`, an empty context if the tokenizer has neither BOS nor EOS.
pub(crate) fn requests(
    tokenizer: &Tokenizer,
    limit: usize,
    questions: &[&[Pair]],
) -> Result<Vec<Vec<Request>>> {
    questions.par_iter().map(|pairs| question(tokenizer, limit, pairs)).collect()
}

fn question(tokenizer: &Tokenizer, limit: usize, pairs: &[Pair]) -> Result<Vec<Request>> {
    let mut last: Option<(&str, Vec<u32>)> = None;
    let mut requests = Vec::with_capacity(pairs.len());
    for pair in pairs {
        // White space at the end of a context belongs to the token that follows.
        let context = pair.context.trim_end();
        if last.as_ref().is_none_or(|(text, _)| *text != context) {
            last = Some((context, self::context(tokenizer, context)?));
        }
        let before = &last.as_ref().expect("set above").1;
        requests.push(request(tokenizer, limit, pair, before)?);
    }
    Ok(requests)
}

/// The tokens of a context. An empty context becomes the first token of a text.
fn context(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let tokens = if text.is_empty() { Vec::new() } else { encode(tokenizer, text)? };
    if tokens.is_empty() { Ok(vec![first_token(tokenizer)?]) } else { Ok(tokens) }
}

fn request(tokenizer: &Tokenizer, limit: usize, pair: &Pair, before: &[u32]) -> Result<Request> {
    let context = pair.context.trim_end();
    let continuation = format!("{}{}", &pair.context[context.len()..], pair.continuation);
    let whole = if context.is_empty() {
        after_first(before[0], &tokenizer.encode(&continuation, false)?)
    } else {
        encode(tokenizer, &format!("{context}{continuation}"))?
    };
    let targets = whole.get(before.len()..).unwrap_or_default();
    if targets.is_empty() || targets.len() > limit {
        let found =
            if targets.is_empty() { "no token of its own" } else { "more tokens than the model supports" };
        return Err(Error::unsupported(
            format!("the continuation {:?} has {found}", pair.continuation),
            "check for an empty or very long choice",
        ));
    }
    let sequence = [before, targets].concat();
    let input = &sequence[sequence.len().saturating_sub(limit + 1)..sequence.len() - 1];
    Ok(Request { input: input.to_vec(), targets: targets.to_vec() })
}

/// Puts the first token before the tokens of a continuation, unless they begin with it already.
fn after_first(first: u32, tokens: &[u32]) -> Vec<u32> {
    let rest = tokens.strip_prefix(&[first]).unwrap_or(tokens);
    [&[first], rest].concat()
}

/// Tokenizes prompts. A prompt that leaves no room for `room` more tokens loses its beginning.
///
/// # Errors
/// A `room` that leaves no token for a prompt.
pub(crate) fn prompts(
    tokenizer: &Tokenizer,
    limit: usize,
    texts: &[&str],
    room: usize,
) -> Result<Vec<Vec<u32>>> {
    let longest = limit.checked_sub(room).filter(|&longest| longest > 0).ok_or_else(|| {
        Error::unsupported(
            format!("the task needs {room} tokens for the answer, but the model's limit is {limit}"),
            "set a smaller max_tokens in the task",
        )
    })?;
    let prompts = texts.par_iter().map(|text| {
        let tokens = self::context(tokenizer, text)?;
        Ok(tokens[tokens.len().saturating_sub(longest)..].to_vec())
    });
    prompts.collect()
}

/// Tokenizes a text with the tokenizer's special tokens, unless the text begins with the first of them (from a chat
/// template).
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let first = first_token(tokenizer).ok().map(|first| tokenizer.decode(&[first], false)).transpose()?;
    let special = !first.is_some_and(|first| !first.is_empty() && text.starts_with(&first));
    tokenizer.encode(text, special)
}

/// The first token of a text: BOS, or EOS without a BOS.
fn first_token(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.bos().or(tokenizer.eos().first().copied()).ok_or_else(|| {
        Error::unsupported("the tokenizer has neither BOS nor EOS", "add bos_token to tokenizer_config.json")
    })
}
