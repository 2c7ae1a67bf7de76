//! GGUF metadata → tokenizer.json and its companions.

use std::path::Path;

use serde_json::Value as Json;

use super::vocabulary::Vocabulary;
use super::{byte_level, companions, sentencepiece};
use crate::error::Result;
use crate::io::gguf::{Metadata, Value};

/// The tokenizer's files, (name, content), rebuilt from the metadata of `file`. A GGUF without tokenizer, or with one of
/// a kind that llmc does not rebuild, has none: the latter aloud.
///
/// # Errors
/// [`crate::Error::Malformed`] where the tables contradict each other.
pub(crate) fn from_gguf(file: &Path, metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    let Some(model) = text("tokenizer.ggml.model") else { return Ok(Vec::new()) };
    let vocabulary = Vocabulary::read(file, metadata)?;
    let tokenizer = match model {
        "gpt2" => byte_level::tokenizer_json(file, &vocabulary, text("tokenizer.ggml.pre")),
        "llama" => sentencepiece::bpe_json(&vocabulary, None),
        "t5" => {
            let charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap").and_then(Value::as_bytes);
            sentencepiece::unigram_json(&vocabulary, charsmap)
        }
        other => {
            tracing::warn!(file = %file.display(), model = other, "llmc does not rebuild tokenizers of this kind");
            return Ok(Vec::new());
        }
    };
    let context =
        text("general.architecture").and_then(|arch| metadata.get(&format!("{arch}.context_length")));
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", companions::tokenizer_config(&vocabulary, context.and_then(Value::as_u64))),
        ("special_tokens_map.json", companions::special_tokens(&vocabulary).into()),
        ("generation_config.json", companions::generation_config(&vocabulary)),
    ];
    Ok(files.into_iter().map(|(name, json)| (name.to_owned(), bytes(&json))).collect())
}

fn bytes(json: &Json) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(json).expect("a JSON value has string keys and finite numbers");
    bytes.push(b'\n');
    bytes
}
