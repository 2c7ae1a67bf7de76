//! Text of token ids as they come: emitted only once no later token can change it.
//!
//! One character may span tokens (byte-level BPE, byte fallback), and what a token says depends on its neighbours
//! (SentencePiece drops a text's first space, WordPiece its `##`). So the new tokens are decoded together with those that
//! were emitted last, and what these say alone is taken off. Text that may turn out to be the beginning of a stop
//! string waits too.
//!
//! The pieces and [`TextStream::finish`] together are the decoding of all ids. One exception: where byte-fallback tokens
//! that are no UTF-8 follow some that are, `tokenizers` turns the whole run into U+FFFD, though part was emitted.

use super::Tokenizer;
use crate::error::Result;

/// Ids in, text out; special tokens are left out.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Those emitted last, then those that wait.
    ids: Vec<u32>,
    /// How many of `ids` have been emitted.
    emitted: usize,
    stops: StopStrings,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before any of `stops` appears; empty ones are left out.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> TextStream<'a> {
        TextStream { tokenizer, ids: Vec::new(), emitted: 0, stops: StopStrings::new(stops) }
    }

    /// Takes the next token; gives the text that has become certain, which may be none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.unemitted()?;
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
        Ok(self.stops.push(&text))
    }

    /// Whether a stop string has appeared. Nothing comes after it.
    pub fn stopped(&self) -> bool {
        self.stops.stopped
    }

    /// The text that waited for more, if any: whole characters are missing bytes, and stop strings their end.
    pub fn finish(mut self) -> Result<String> {
        let text = self.unemitted()?;
        Ok(self.stops.push(&text) + &self.stops.finish())
    }

    /// What the tokens that wait say after those emitted last.
    fn unemitted(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.emitted], true)?;
        let both = self.tokenizer.decode(&self.ids, true)?;
        Ok(both[common_prefix(&before, &both)..].to_owned())
    }
}

/// Bytes of the longest common beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Cuts a stream of text before the first stop string.
#[derive(Debug)]
struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl StopStrings {
    fn new(mut stops: Vec<String>) -> StopStrings {
        stops.retain(|stop| !stop.is_empty());
        StopStrings { stops, held: String::new(), stopped: false }
    }

    fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        self.stopped = found.is_some();
        let end = found.unwrap_or_else(|| self.held.len() - self.doubtful());
        let rest = self.held.split_off(end);
        let certain = std::mem::replace(&mut self.held, rest);
        if self.stopped {
            self.held.clear();
        }
        certain
    }

    fn finish(self) -> String {
        self.held
    }

    /// Bytes at the end of `held` that begin a stop string: the most that any begins with.
    fn doubtful(&self) -> usize {
        let begins = |start: &usize| {
            let end = &self.held[*start..];
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let starts = self.held.char_indices().map(|(start, _)| start);
        starts.into_iter().find(begins).map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests;
