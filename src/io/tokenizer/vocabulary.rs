//! `tokenizer.ggml.*` as one struct, checked: what tokenizer.json and its companions are rebuilt from.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io::gguf::{Metadata, Value, typed};

/// Types of tokens, `llama_token_type`, <https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h>.
pub(super) mod token_type {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// A tokenizer's tables.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    /// As many as tokens.
    pub types: Vec<i32>,
    /// As many as tokens, or none.
    pub scores: Vec<f32>,
    /// `left right`, best first.
    pub merges: Vec<String>,
    pub bos: Option<usize>,
    pub eos: Option<usize>,
    pub unk: Option<usize>,
    pub pad: Option<usize>,
    /// End of a turn, where it is not `eos`.
    pub eot: Option<usize>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    /// Runs of spaces count as one, and none begin or end a text.
    pub remove_extra_whitespaces: bool,
    pub chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads the metadata.
    ///
    /// # Errors
    /// [`Error::Malformed`] where a value has another type, tables disagree in length, or an id is none of the tokens'.
    pub(crate) fn read(file: &Path, metadata: &Metadata) -> Result<Vocabulary> {
        let name = |key: &str| format!("tokenizer.ggml.{key}");
        let flag = |key: &str| typed(file, metadata, &name(key), "true or false", Value::as_bool);
        let strings = |key: &str| -> Result<Vec<String>> {
            let found = typed(file, metadata, &name(key), "a list of texts", Value::as_strings)?;
            Ok(found.unwrap_or_default().to_vec())
        };
        let tokens = strings("tokens")?;
        let id = |key: &str| token_id(file, metadata, key, tokens.len());
        let types = typed(file, metadata, &name("token_type"), "a list of i32", Value::as_i32s)?
            .map_or_else(|| vec![token_type::NORMAL; tokens.len()], <[i32]>::to_vec);
        let scores = typed(file, metadata, &name("scores"), "a list of f32", Value::as_f32s)?;
        let scores = scores.unwrap_or_default().to_vec();
        let template = typed(file, metadata, "tokenizer.chat_template", "a text", Value::as_str)?;
        check_len(file, "tokenizer.ggml.token_type", types.len(), tokens.len())?;
        if !scores.is_empty() {
            check_len(file, "tokenizer.ggml.scores", scores.len(), tokens.len())?;
        }
        Ok(Vocabulary {
            types,
            scores,
            merges: strings("merges")?,
            bos: id("bos")?,
            eos: id("eos")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            eot: id("eot")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?.unwrap_or(false),
            chat_template: template.map(str::to_owned),
            tokens,
        })
    }

    /// The text of a token.
    pub(crate) fn text(&self, id: Option<usize>) -> Option<&str> {
        self.tokens.get(id?).map(String::as_str)
    }

    /// Returns true if a token only fills up the embedding: tokenizer.json has no such tokens.
    pub(crate) fn is_filler(&self, id: usize) -> bool {
        self.types[id] == token_type::UNUSED && self.tokens[id] == format!("[PAD{id}]")
    }
}

fn check_len(file: &Path, key: &str, found: usize, tokens: usize) -> Result<()> {
    if found == tokens {
        return Ok(());
    }
    let hint = "the tokenizer is damaged: convert the model again";
    Err(Error::malformed_tensor(file, key, format!("{tokens} entries, one per token"), found, hint))
}

/// A special token's id; llama.cpp ignores ids beyond the vocabulary, so do we, aloud.
fn token_id(file: &Path, metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<usize>> {
    let key = format!("tokenizer.ggml.{key}_token_id");
    let Some(value) = metadata.get(&key) else { return Ok(None) };
    let id = value.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < tokens);
    if id.is_none() {
        tracing::warn!(file = %file.display(), key, ?value, "no such token: ignored");
    }
    Ok(id)
}
