//! A text as tokens, for the evaluation of a model.

use super::windows::Protocol;
use crate::corpus::Text;
use crate::engine::Tokenizer;
use crate::error::Result;

/// The tokens of a whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corpus {
    /// The tokens, after BOS if the tokenizer adds one.
    pub tokens: Vec<u32>,
    /// The replacement of each window's first token.
    pub first: Option<u32>,
}

impl Corpus {
    /// Tokenizes a text. Adds no token after it, even if the tokenizer would. The names of special tokens are text, except
    /// under [`Protocol::Strided`]: transformers reads them as tokens.
    pub(crate) fn new(text: &Text, tokenizer: &Tokenizer, protocol: Protocol) -> Result<Corpus> {
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut tokens = match protocol {
            Protocol::Chunks { .. } => tokenizer.encode_plain(&text.text, false)?,
            Protocol::Strided { .. } => tokenizer.encode(&text.text, false)?,
        };
        if let Some(bos) = bos {
            tokens.insert(0, bos);
        }
        Ok(Corpus { tokens, first: bos.filter(|_| protocol.begins_with_bos()) })
    }

    /// The blake3 digest of the tokens (u32, little-endian), in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        let bytes: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex().to_string()
    }
}
