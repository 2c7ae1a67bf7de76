//! Decodes token ids one by one. Emits text only when no later token can change it.
//!
//! One character may span tokens (byte-level BPE, byte fallback), and the text of a token depends on its neighbours
//! (SentencePiece drops a text's first space, WordPiece its `##`). So new tokens are decoded together with the last emitted
//! ones, and the text of the emitted ones is cut off. Text that may be the beginning of a stop string waits too.
//!
//! The pieces and [`TextStream::finish`] together are the decoding of all ids. One exception: if invalid byte-fallback tokens
//! follow valid ones, `tokenizers` turns the whole run into U+FFFD, although part of it was emitted.

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// A stream that takes ids and returns text, without special tokens.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last emitted ids, then the waiting ones.
    ids: Vec<u32>,
    /// The number of emitted ids in `ids`.
    emitted: usize,
    stops: StopStrings,
}

impl<'a> TextStream<'a> {
    /// Creates a stream that ends before any of `stops` appears. Empty stop strings are ignored.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> TextStream<'a> {
        TextStream { tokenizer, ids: Vec::new(), emitted: 0, stops: StopStrings::new(stops) }
    }

    /// Takes the next token. Returns the text that can no longer change, which may be empty.
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

    /// True if a stop string has appeared. Nothing comes after it.
    pub fn stopped(&self) -> bool {
        self.stops.stopped
    }

    /// Returns the text that still waits: incomplete characters, and beginnings of stop strings.
    pub fn finish(mut self) -> Result<String> {
        let text = self.unemitted()?;
        Ok(self.stops.push(&text) + &self.stops.finish())
    }

    /// The text of the waiting tokens.
    fn unemitted(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.emitted], true)?;
        let both = self.tokenizer.decode(&self.ids, true)?;
        Ok(both[common_prefix(&before, &both)..].to_owned())
    }
}

/// The bytes of the longest common prefix, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Cuts a stream of text before the first stop string.
#[derive(Debug)]
struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    waiting: String,
    stopped: bool,
}

impl StopStrings {
    fn new(mut stops: Vec<String>) -> StopStrings {
        stops.retain(|stop| !stop.is_empty());
        StopStrings { stops, waiting: String::new(), stopped: false }
    }

    fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.waiting.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.waiting.find(stop.as_str())).min();
        self.stopped = found.is_some();
        let end = found.unwrap_or_else(|| self.waiting.len() - self.doubtful());
        let rest = self.waiting.split_off(end);
        let certain = std::mem::replace(&mut self.waiting, rest);
        if self.stopped {
            self.waiting.clear();
        }
        certain
    }

    fn finish(self) -> String {
        self.waiting
    }

    /// The bytes of the longest end of `waiting` that begins a stop string.
    fn doubtful(&self) -> usize {
        for (start, _) in self.waiting.char_indices() {
            let end = &self.waiting[start..];
            if self.stops.iter().any(|stop| stop.starts_with(end)) {
                return end.len();
            }
        }
        0
    }
}

#[cfg(test)]
mod tests;
