//! The table of tokens of a tokenizer.json: one entry per row of the embedding.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::vocabulary::token_type;
use crate::error::{Error, Result};

/// The most rows without a token: models pad their embeddings by some hundreds.
const MAX_FILLERS: usize = 1 << 20;
/// Score of tokens that merging never makes.
const LOWEST_SCORE: f32 = -1000.0;

/// The lists of a GGUF, an entry per token.
#[derive(Debug)]
pub(super) struct Table {
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
    /// Of a unigram model.
    pub scores: Vec<f32>,
    ids: HashMap<String, usize>,
}

impl Table {
    /// The id of a token, by the text that tokenizer.json has for it.
    pub(crate) fn id(&self, text: &str) -> Option<usize> {
        self.ids.get(text).copied()
    }

    /// Marks tokens as unused where `types`, by id, says so and no added token has taken their place.
    pub(super) fn mark_unused(&mut self, types: &[i32]) {
        for (own, kind) in self.types.iter_mut().zip(types) {
            if *own == token_type::NORMAL && *kind == token_type::UNUSED {
                *own = token_type::UNUSED;
            }
        }
    }

    /// These scores, by id, and the lowest for tokens beyond them.
    pub(super) fn with_scores(&self, scores: &[f32]) -> Vec<f32> {
        (0..self.tokens.len()).map(|id| scores.get(id).copied().unwrap_or(LOWEST_SCORE)).collect()
    }

    fn set(&mut self, id: usize, text: &str, kind: i32) {
        self.ids.insert(text.to_owned(), id);
        // llama.cpp looks for user-defined tokens in the text itself, where a space is a space.
        let text = if kind == token_type::USER_DEFINED { text.replace('▁', " ") } else { text.to_owned() };
        self.tokens[id] = text;
        self.types[id] = kind;
    }
}

/// Lists the tokens of a tokenizer for an embedding of `rows` rows. Rows without a token are filled up; tokens without a
/// row are left out, aloud.
///
/// # Errors
/// [`Error::Malformed`] for far more rows than tokens: an embedding without columns may claim any number.
pub(super) fn table(tokenizer: &Json, rows: usize) -> Result<Table> {
    let tokens = count(&tokenizer["model"]["vocab"]) + count(&tokenizer["added_tokens"]);
    if rows > tokens + MAX_FILLERS {
        let expected = format!("{tokens} tokens, or up to {MAX_FILLERS} more");
        let hint = "tokenizer.json and the weights are of different models, or damaged: download them again";
        return Err(Error::malformed_tensor("tokenizer.json", "rows of the embedding", expected, rows, hint));
    }
    let mut table = Table {
        tokens: (0..rows).map(|id| format!("[PAD{id}]")).collect(),
        types: vec![token_type::UNUSED; rows],
        scores: vec![LOWEST_SCORE; rows],
        ids: HashMap::new(),
    };
    let beyond = add_vocabulary(&tokenizer["model"], &mut table) + add_added(tokenizer, &mut table);
    if beyond > 0 {
        tracing::warn!(tokens = beyond, rows, "tokens beyond the rows of the embedding: left out");
    }
    Ok(table)
}

/// Entries of a list or of an object.
fn count(tokens: &Json) -> usize {
    tokens.as_object().map(serde_json::Map::len).or_else(|| Some(tokens.as_array()?.len())).unwrap_or(0)
}

/// Adds the model's own tokens; returns how many have no row.
fn add_vocabulary(model: &Json, table: &mut Table) -> usize {
    let unknown = model["unk_token"].as_str();
    let bytes = model["byte_fallback"] == true;
    let kind = |text: &str| match text {
        _ if Some(text) == unknown => token_type::UNKNOWN,
        _ if bytes && is_byte(text) => token_type::BYTE,
        _ => token_type::NORMAL,
    };
    let mut beyond = 0;
    for (text, id) in model["vocab"].as_object().into_iter().flatten() {
        match row(id, table) {
            Some(id) => table.set(id, text, kind(text)),
            None => beyond += 1,
        }
    }
    for (id, piece) in model["vocab"].as_array().into_iter().flatten().enumerate() {
        let (text, score) = (piece[0].as_str().unwrap_or_default(), piece[1].as_f64().unwrap_or_default());
        if id >= table.tokens.len() {
            beyond += 1;
            continue;
        }
        let is_unknown = model["unk_id"].as_u64() == Some(id as u64);
        table.set(id, text, if is_unknown { token_type::UNKNOWN } else { kind(text) });
        table.scores[id] = score as f32;
    }
    beyond
}

/// Adds the added tokens; returns how many have no row.
fn add_added(tokenizer: &Json, table: &mut Table) -> usize {
    let mut beyond = 0;
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let text = token["content"].as_str().unwrap_or_default();
        let Some(id) = row(&token["id"], table) else {
            beyond += 1;
            continue;
        };
        let kind = match table.types[id] {
            token_type::UNKNOWN => token_type::UNKNOWN,
            _ if token["special"] == true || looks_special(text) => token_type::CONTROL,
            _ => token_type::USER_DEFINED,
        };
        table.set(id, text, kind);
    }
    beyond
}

fn row(id: &Json, table: &Table) -> Option<usize> {
    usize::try_from(id.as_u64()?).ok().filter(|id| *id < table.tokens.len())
}

/// `<0x0A>`: what SentencePiece falls back to.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Control tokens that some models list as ordinary ones: llama.cpp's converter's rule, `does_token_look_special`,
/// <https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py>.
fn looks_special(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    let named = ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text);
    named || between("<|", "|>") || between("<｜", "｜>") || between("<unused", ">")
}

/// Merges as `left right`: tokenizer.json has them as such, or as pairs.
pub(super) fn merges(tokenizer: &Json) -> Vec<String> {
    let text = |merge: &Json| match merge {
        Json::String(text) => Some(text.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    };
    tokenizer["model"]["merges"].as_array().into_iter().flatten().filter_map(text).collect()
}
