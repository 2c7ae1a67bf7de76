//! vocab.json and merges.txt → tokenizer.json, for models that come without one: OPT, and older copies of GPT-2.
//!
//! Only for the class `GPT2Tokenizer`, whose way of splitting words is always the same: others (Qwen, RoBERTa) have files of
//! the same names and split by other rules. Source:
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/tokenization_gpt2.py>.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::companions::{self, Companions};
use crate::error::{Error, Result};
use crate::io::SideFile;

/// What GPT-2 has for every special token that no file names.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The tokenizer.json of these files, and the file it was made from; `None` where they are not a GPT-2 tokenizer's.
pub(super) fn rebuild(files: &[SideFile], companions: &Companions) -> Result<Option<(PathBuf, Value)>> {
    let class = companions.tokenizer.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let (vocabulary, merges) =
        (companions::content(files, "vocab.json")?, companions::content(files, "merges.txt")?);
    let (Some((file, vocabulary)), Some((_, merges))) = (vocabulary, merges) else { return Ok(None) };
    if !["GPT2Tokenizer", "GPT2TokenizerFast"].contains(&class) {
        return Ok(None);
    }
    let vocabulary = parse_vocabulary(&file, &vocabulary)?;
    let merges = String::from_utf8_lossy(&merges);
    let merges = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let byte_level = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    let prefix = companions.tokenizer.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(files, companions, &vocabulary)?,
        "normalizer": null,
        "pre_tokenizer": byte_level(prefix),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "merges": merges.collect::<Vec<_>>(),
            "vocab": vocabulary,
        },
    });
    Ok(Some((file, tokenizer)))
}

fn parse_vocabulary(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    let hint = "take vocab.json again from where the model came from";
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(file, "ids by token", e, hint))
}

/// Special tokens that have an id, and those of added_tokens.json, in the order of their ids.
fn added_tokens(
    files: &[SideFile],
    companions: &Companions,
    vocabulary: &Map<String, Value>,
) -> Result<Vec<Value>> {
    let older = companions::json(files, "added_tokens.json")?;
    let id = |token: &str| vocabulary.get(token).or_else(|| older.get(token))?.as_u64();
    let older_names = older.as_object().into_iter().flat_map(Map::keys).map(|name| (name.as_str(), false));
    let special = companions.special_tokens().chain([END_OF_TEXT]).map(|name| (name, true));
    let tokens: BTreeMap<u64, _> =
        older_names.chain(special).filter_map(|(name, special)| Some((id(name)?, (name, special)))).collect();
    let entry = |(id, (content, special)): (u64, (&str, bool))| {
        json!({ "id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false })
    };
    Ok(tokens.into_iter().map(entry).collect())
}
