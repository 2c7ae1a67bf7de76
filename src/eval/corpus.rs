//! A text as the tokens that a model is measured on.

use super::windows::Protocol;
use crate::corpus::Text;
use crate::engine::Tokenizer;
use crate::error::Result;

/// A text, tokenized once and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Its tokens, BOS before them where the tokenizer adds one.
    pub tokens: Vec<u32>,
    /// What takes the place of the first token of each window.
    pub first: Option<u32>,
}

impl Corpus {
    /// Tokenizes. Nothing is put behind the text, whatever the tokenizer would: it goes on in the next window.
    pub fn new(text: &Text, tokenizer: &Tokenizer, protocol: Protocol) -> Result<Corpus> {
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut tokens = tokenizer.encode(&text.text, false)?;
        if let Some(bos) = bos {
            tokens.insert(0, bos);
        }
        Ok(Corpus { tokens, first: bos.filter(|_| protocol.begins_with_bos()) })
    }

    /// blake3 of the tokens (u32, little-endian), in hexadecimal.
    pub fn digest(&self) -> String {
        let bytes: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex().to_string()
    }
}
