//! Byte-level BPE (`tokenizer.ggml.model` "gpt2") → tokenizer.json.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::added;
use super::pre::{self, Pre};
use super::vocabulary::Vocabulary;

/// Rebuilds tokenizer.json. A pre-tokenizer that llmc does not know reads as llama.cpp's default, aloud.
pub(super) fn tokenizer_json(file: &Path, vocabulary: &Vocabulary, pre_name: Option<&str>) -> Value {
    let pre = find(file, pre_name);
    let normalizer = if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null };
    let add_bos = vocabulary.add_bos.unwrap_or(pre.add_bos);
    let byte_level = pre::byte_level(true);
    let post = match added::template(vocabulary, add_bos, vocabulary.add_eos.unwrap_or(false)) {
        Some(template) => json!({ "type": "Sequence", "processors": [byte_level, template] }),
        None => byte_level.clone(),
    };
    added::tokenizer(vocabulary, normalizer, pre.json(), post, byte_level, model(vocabulary, pre))
}

fn find(file: &Path, name: Option<&str>) -> &'static Pre {
    let found = name.and_then(pre::find);
    if found.is_none() {
        tracing::warn!(
            file = %file.display(),
            pre = name.unwrap_or("(none)"),
            "unknown pre-tokenizer: text is split as by llama.cpp's default, which may differ from the model's own"
        );
    }
    found.unwrap_or_else(|| pre::find("default").expect("the table has a default"))
}

fn model(vocabulary: &Vocabulary, pre: &Pre) -> Value {
    let ids: Map<String, Value> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| !vocabulary.is_filler(*id))
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let merges = usable_merges(vocabulary, &ids);
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": pre.ignore_merges,
        "vocab": ids,
        "merges": merges,
    })
}

/// Merges of tokens into a token. The tokenizers library refuses any other.
fn usable_merges(vocabulary: &Vocabulary, ids: &Map<String, Value>) -> Vec<String> {
    let usable = |merge: &&String| {
        let pair = merge.split_once(' ');
        pair.is_some_and(|(left, right)| {
            ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(&format!("{left}{right}"))
        })
    };
    let merges: Vec<String> = vocabulary.merges.iter().filter(usable).cloned().collect();
    let dropped = vocabulary.merges.len() - merges.len();
    if dropped > 0 {
        tracing::warn!(dropped, "merges of or into strings that are no tokens: left out");
    }
    merges
}
