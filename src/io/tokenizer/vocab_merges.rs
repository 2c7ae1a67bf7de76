//! Builds a tokenizer.json from vocab.json and merges.txt, for models without one: OPT, and copies of GPT-2 and Qwen.
//!
//! The files do not say how text is split into words. The tokenizer's class does, or else the model's type; others
//! (RoBERTa) have files of the same names but other rules, and are left alone. Sources:
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/tokenization_gpt2.py>,
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen2/tokenization_qwen2.py>.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::pre;
use crate::error::{Error, Result};
use crate::io::SideFile;
use crate::json;

/// The settings that name a special token.
pub(crate) const SPECIAL_TOKENS: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The default of these classes for every special token that they have.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Classes of tokenizers that differ in how they split text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Gpt2,
    Qwen2,
}

impl Class {
    /// The class that tokenizer_config.json names; where it names none, the one of the model's type.
    fn of(settings: &Value, config: &Value) -> Option<Class> {
        match settings["tokenizer_class"].as_str() {
            Some("GPT2Tokenizer" | "GPT2TokenizerFast" | "CodeGenTokenizer" | "CodeGenTokenizerFast") => {
                Some(Class::Gpt2)
            }
            Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => Some(Class::Qwen2),
            Some(_) => None,
            None => Class::of_model(config["model_type"].as_str()?),
        }
    }

    fn of_model(model_type: &str) -> Option<Class> {
        match model_type {
            "gpt2" | "gpt_neo" | "gptj" | "codegen" | "phi" | "gpt_bigcode" | "starcoder2" => {
                Some(Class::Gpt2)
            }
            _ if model_type.starts_with("qwen2") || model_type.starts_with("qwen3") => Some(Class::Qwen2),
            _ => None,
        }
    }

    /// Normalizer and pre-tokenizer.
    fn parts(self, add_prefix_space: bool) -> [Value; 2] {
        let qwen2 = pre::find("qwen2").map(pre::Pre::json).unwrap_or_default();
        match self {
            Class::Gpt2 => [Value::Null, byte_level(add_prefix_space)],
            Class::Qwen2 => [json!({ "type": "NFC" }), qwen2],
        }
    }
}

/// Builds the tokenizer: the path of vocab.json, a tokenizer.json, and the special tokens that the class itself has, as
/// special_tokens_map.json lists them. `None` where the files are not there, or are of another class.
pub(super) fn rebuild(
    files: &[SideFile],
    settings: [&Value; 2],
    config: &Value,
) -> Result<Option<(PathBuf, [Value; 2])>> {
    let Some(class) = Class::of(settings[0], config) else { return Ok(None) };
    let find = |name: &str| files.iter().find(|file| file.name == name);
    let (Some(vocabulary), Some(merges)) = (find("vocab.json"), find("merges.txt")) else { return Ok(None) };
    let file = vocabulary.path.clone();
    let vocabulary = object(vocabulary)?;
    let older = find("added_tokens.json").map(object).transpose()?.unwrap_or_default();
    let added = added_tokens(&older, settings, &vocabulary);
    let prefix = settings[0]["add_prefix_space"].as_bool().unwrap_or(false);
    let [normalizer, pre_tokenizer] = class.parts(prefix);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": model(vocabulary, &merges.content()?),
    });
    Ok(Some((file, [tokenizer, default_tokens(class, &added)])))
}

fn model(vocabulary: Map<String, Value>, merges: &[u8]) -> Value {
    let merges = String::from_utf8_lossy(merges);
    let merges = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    json!({
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
    })
}

fn byte_level(prefix: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true })
}

fn object(file: &SideFile) -> Result<Map<String, Value>> {
    let hint = "get this file again from the model's source";
    let malformed = |found: String| Error::malformed(&file.path, "ids by token", found, hint);
    match json::parse(&file.content()?) {
        Ok(Value::Object(ids)) => Ok(ids),
        Ok(_) => Err(malformed("another JSON value".into())),
        Err(e) => Err(malformed(e.to_string())),
    }
}

/// The special tokens that a class has where no file names any; only those that the vocabulary has.
fn default_tokens(class: Class, added: &[Value]) -> Value {
    if !added.iter().any(|token| token["content"] == END_OF_TEXT) {
        return Value::Null;
    }
    match class {
        Class::Gpt2 => {
            json!({ "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT })
        }
        Class::Qwen2 => json!({ "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT }),
    }
}

/// The special tokens that have an id and the tokens of added_tokens.json, ordered by id.
fn added_tokens(
    older: &Map<String, Value>,
    settings: [&Value; 2],
    vocabulary: &Map<String, Value>,
) -> Vec<Value> {
    let special_names = SPECIAL_TOKENS.iter().filter_map(|name| {
        settings.iter().find_map(|file| file[*name].as_str().or_else(|| file[*name]["content"].as_str()))
    });
    let special_names = special_names.chain([END_OF_TEXT]).map(|name| (name, true));
    let older_names = older.keys().map(|name| (name.as_str(), false));
    let mut tokens = BTreeMap::new();
    for (name, special) in older_names.chain(special_names) {
        let id = vocabulary.get(name).or_else(|| older.get(name)).and_then(Value::as_u64);
        if let Some(id) = id {
            tokens.insert(id, added_token(id, name, special));
        }
    }
    tokens.into_values().collect()
}

fn added_token(id: u64, content: &str, special: bool) -> Value {
    json!({ "id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false })
}
