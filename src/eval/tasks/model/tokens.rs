//! Texts to tokens, as lm-evaluation-harness does it (`_encode_pair` in `lm_eval/api/model.py`, `tok_encode` and
//! `_loglikelihood_tokens` in `lm_eval/models/huggingface.py`): context and continuation are tokenized together, and cut where
//! the context's own tokens end.

use rayon::prelude::*;

use crate::engine::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::tasks::question::Pair;

/// A pair in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is run: context and continuation, without the last token.
    pub input: Vec<u32>,
    /// The continuation: what the last rows of the input should say.
    pub targets: Vec<u32>,
}

impl Request {
    /// The place of the first row that is scored.
    pub fn first_row(&self) -> usize {
        self.input.len() - self.targets.len()
    }
}

/// Every question's pairs in tokens. What is longer than `limit` loses its beginning.
///
/// # Errors
/// A continuation without tokens of its own, or longer than `limit`; a tokenizer that has neither BOS nor EOS where a
/// context is empty.
pub fn requests(tokenizer: &Tokenizer, limit: usize, questions: &[&[Pair]]) -> Result<Vec<Vec<Request>>> {
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

/// The tokens of a context; of an empty one, that with which a text begins.
fn context(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let tokens = if text.is_empty() { Vec::new() } else { encode(tokenizer, text)? };
    if tokens.is_empty() { first_token(tokenizer).map(|first| vec![first]) } else { Ok(tokens) }
}

fn request(tokenizer: &Tokenizer, limit: usize, pair: &Pair, before: &[u32]) -> Result<Request> {
    let kept = pair.context.trim_end().len();
    let continuation = format!("{}{}", &pair.context[kept..], pair.continuation);
    let whole = match kept {
        0 => after_first(before[0], &tokenizer.encode(&continuation, false)?),
        _ => encode(tokenizer, &format!("{}{continuation}", &pair.context[..kept]))?,
    };
    let targets = whole.get(before.len()..).unwrap_or_default();
    if targets.is_empty() || targets.len() > limit {
        let found =
            if targets.is_empty() { "no token of its own" } else { "more tokens than the model takes" };
        return Err(Error::unsupported(
            format!("the continuation {:?} has {found}", pair.continuation),
            "is a choice empty, or a whole text?",
        ));
    }
    let sequence = [before, targets].concat();
    let input = &sequence[sequence.len().saturating_sub(limit + 1)..sequence.len() - 1];
    Ok(Request { input: input.to_vec(), targets: targets.to_vec() })
}

/// What follows an empty context, after the token that stands for it; a text that begins with that token has it once.
fn after_first(first: u32, tokens: &[u32]) -> Vec<u32> {
    let rest = tokens.strip_prefix(&[first]).unwrap_or(tokens);
    [&[first], rest].concat()
}

/// The tokens of prompts, with room left for `room` more: what is longer loses its beginning.
///
/// # Errors
/// No room for a prompt at all.
pub fn prompts(tokenizer: &Tokenizer, limit: usize, texts: &[&str], room: usize) -> Result<Vec<Vec<u32>>> {
    let longest = limit.checked_sub(room).filter(|&longest| longest > 0).ok_or_else(|| {
        Error::unsupported(
            format!("the task lets the model write {room} tokens, and the model's limit is {limit}"),
            "define the task with fewer max_tokens",
        )
    })?;
    let prompt = |text: &&str| {
        let tokens = self::context(tokenizer, text)?;
        Ok(tokens[tokens.len().saturating_sub(longest)..].to_vec())
    };
    texts.par_iter().map(prompt).collect()
}

/// With what the tokenizer puts before a text, unless the text begins with it, as a chat template's may.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let first = first_token(tokenizer).ok().map(|first| tokenizer.decode(&[first], false)).transpose()?;
    let special = !first.is_some_and(|first| !first.is_empty() && text.starts_with(&first));
    tokenizer.encode(text, special)
}

fn first_token(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.bos().or(tokenizer.eos().first().copied()).ok_or_else(|| {
        Error::unsupported(
            "the tokenizer names neither BOS nor EOS",
            "add bos_token to tokenizer_config.json",
        )
    })
}
