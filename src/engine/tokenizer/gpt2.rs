//! Builds a tokenizer.json from vocab.json and merges.txt, for models without one: OPT, and older copies of GPT-2.
//!
//! Only for the class `GPT2Tokenizer`, which always splits words the same way. Other classes (Qwen, RoBERTa) have files of the
//! same names but other rules. Source:
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/tokenization_gpt2.py>.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::engine::tokenizer_configs::{TokenizerConfigs, side_file, side_json};
use crate::error::{Error, Result};
use crate::io::SideFile;

/// GPT-2's default for every special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Builds the tokenizer.json. Returns it with the path of vocab.json, or `None` if this is not a GPT-2 tokenizer.
pub(super) fn rebuild(files: &[SideFile], configs: &TokenizerConfigs) -> Result<Option<(PathBuf, Value)>> {
    let class = configs.tokenizer.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    if !["GPT2Tokenizer", "GPT2TokenizerFast"].contains(&class) {
        return Ok(None);
    }
    let Some((file, vocabulary)) = side_file(files, "vocab.json")? else { return Ok(None) };
    let Some((_, merges)) = side_file(files, "merges.txt")? else { return Ok(None) };
    let vocabulary = parse_vocabulary(&file, &vocabulary)?;
    let merges = String::from_utf8_lossy(&merges);
    let merges = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let prefix = configs.tokenizer.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(files, configs, &vocabulary)?,
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

fn byte_level(prefix: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true })
}

fn parse_vocabulary(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    let hint = "get vocab.json again from the model's source";
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(file, "ids by token", e, hint))
}

/// The special tokens that have an id and the tokens of added_tokens.json, ordered by id.
fn added_tokens(
    files: &[SideFile],
    configs: &TokenizerConfigs,
    vocabulary: &Map<String, Value>,
) -> Result<Vec<Value>> {
    let older = side_json(files, "added_tokens.json")?;
    let older_names = older.as_object().into_iter().flat_map(Map::keys).map(|name| (name.as_str(), false));
    let special_names = configs.special_tokens().chain([END_OF_TEXT]).map(|name| (name, true));
    let mut tokens = BTreeMap::new();
    for (name, special) in older_names.chain(special_names) {
        let id = vocabulary.get(name).or_else(|| older.get(name)).and_then(Value::as_u64);
        if let Some(id) = id {
            tokens.insert(id, added_token(id, name, special));
        }
    }
    Ok(tokens.into_values().collect())
}

fn added_token(id: u64, content: &str, special: bool) -> Value {
    json!({ "id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false })
}
