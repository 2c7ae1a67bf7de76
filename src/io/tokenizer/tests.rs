//! Tokenizers there and back: the metadata of a small vocabulary, the files rebuilt from them, and the metadata of these.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::{Files, from_gguf, to_gguf};
use crate::io::gguf::{Array, Metadata, Value};
use crate::io::{Checkpoint, SideFile};

fn strings(values: &[&str]) -> Value {
    Value::Array(Array::Strings(values.iter().map(|text| (*text).to_owned()).collect()))
}

fn metadata(pairs: &[(&str, Value)]) -> Metadata {
    pairs.iter().map(|(key, value)| (format!("tokenizer.{key}"), value.clone())).collect()
}

/// A byte-level vocabulary with a filler, as SmolLM2's.
fn byte_level() -> Metadata {
    metadata(&[
        ("ggml.model", Value::String("gpt2".into())),
        ("ggml.pre", Value::String("smollm".into())),
        ("ggml.tokens", strings(&["<|end|>", "<tool>", "a", "b", "Ġ", "ab", "Ġab", "[PAD7]"])),
        ("ggml.token_type", Value::Array(Array::I32(vec![3, 4, 1, 1, 1, 1, 1, 5]))),
        ("ggml.merges", strings(&["a b", "Ġ ab"])),
        ("ggml.eos_token_id", Value::U32(0)),
        ("ggml.bos_token_id", Value::U32(0)),
        ("ggml.add_bos_token", Value::Bool(true)),
        ("ggml.add_eos_token", Value::Bool(false)),
        ("chat_template", Value::String("{{ messages }}".into())),
    ])
}

/// A SentencePiece vocabulary.
fn sentencepiece() -> Metadata {
    metadata(&[
        ("ggml.model", Value::String("llama".into())),
        ("ggml.pre", Value::String("default".into())),
        ("ggml.tokens", strings(&["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab"])),
        ("ggml.token_type", Value::Array(Array::I32(vec![2, 3, 3, 6, 1, 1, 1, 1, 1]))),
        ("ggml.scores", Value::Array(Array::F32(vec![0.0, 0.0, 0.0, 0.0, -4.0, -5.0, -6.0, 0.0, -1.0]))),
        ("ggml.unknown_token_id", Value::U32(0)),
        ("ggml.bos_token_id", Value::U32(1)),
        ("ggml.eos_token_id", Value::U32(2)),
        ("ggml.add_bos_token", Value::Bool(true)),
        ("ggml.add_eos_token", Value::Bool(false)),
        ("ggml.add_space_prefix", Value::Bool(true)),
    ])
}

/// A unigram vocabulary, with a compiled character map.
fn unigram() -> Metadata {
    metadata(&[
        ("ggml.model", Value::String("t5".into())),
        ("ggml.pre", Value::String("default".into())),
        ("ggml.tokens", strings(&["<pad>", "</s>", "<unk>", "▁a", "b"])),
        ("ggml.token_type", Value::Array(Array::I32(vec![3, 3, 2, 1, 1]))),
        ("ggml.scores", Value::Array(Array::F32(vec![0.0, 0.0, 0.0, -2.5, -3.5]))),
        ("ggml.precompiled_charsmap", Value::Array(Array::U8(vec![1, 2, 3, 255, 0]))),
        ("ggml.unknown_token_id", Value::U32(2)),
        ("ggml.eos_token_id", Value::U32(1)),
        ("ggml.add_bos_token", Value::Bool(false)),
        ("ggml.add_eos_token", Value::Bool(true)),
        ("ggml.add_space_prefix", Value::Bool(true)),
    ])
}

fn files(metadata: &Metadata) -> Vec<(String, Vec<u8>)> {
    from_gguf(Path::new("x.gguf"), metadata).unwrap()
}

fn json_of(files: &[(String, Vec<u8>)], name: &str) -> Json {
    let (_, bytes) = files.iter().find(|(found, _)| found == name).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

fn checkpoint(files: Vec<(String, Vec<u8>)>) -> Checkpoint {
    let side = |(name, bytes)| SideFile { name, bytes: Some(bytes), path: PathBuf::new() };
    Checkpoint {
        path: PathBuf::from("model"),
        files: Vec::new(),
        tensors: Default::default(),
        config: None,
        side_files: files.into_iter().map(side).collect(),
        metadata: Default::default(),
        activation_scales: Default::default(),
        packed: None,
        whole: None,
        quantization: None,
    }
}

fn back(files: Vec<(String, Vec<u8>)>, rows: usize) -> crate::Result<Metadata> {
    let files = Files::read(&checkpoint(files))?.expect("there is a tokenizer.json");
    to_gguf(&files, &Json::Null, rows)
}

#[track_caller]
fn round_trip(before: &Metadata, rows: usize) {
    let after = back(files(before), rows).unwrap();
    for (key, value) in before {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
    assert_eq!(after.len(), before.len());
}

#[test]
fn vocabularies_survive_the_round_trip() {
    round_trip(&byte_level(), 8);
    // Padding has to be named for the files to name it back.
    let mut padded = unigram();
    padded.insert("tokenizer.ggml.padding_token_id".into(), Value::U32(0));
    round_trip(&padded, 5);
    let merges = json_of(&files(&sentencepiece()), "tokenizer.json")["model"]["merges"].clone();
    assert_eq!(merges, json!(["a b", "▁ ab"]));
    // Scores come back as ranks of merges; what no merge makes scores below all of them.
    let mut ranked = sentencepiece();
    let ranks = vec![-2.0, -2.0, -2.0, -2.0, -2.0, -2.0, -2.0, 0.0, -1.0];
    ranked.insert("tokenizer.ggml.scores".into(), Value::Array(Array::F32(ranks)));
    round_trip(&ranked, 9);
}

#[test]
fn byte_level_files_are_what_transformers_reads() {
    let files = files(&byte_level());
    let tokenizer = json_of(&files, "tokenizer.json");
    assert_eq!(tokenizer["model"]["vocab"].as_object().unwrap().len(), 7, "fillers are no tokens");
    assert_eq!(
        tokenizer["added_tokens"][1],
        json!({ "id": 1, "content": "<tool>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": false })
    );
    let single = &tokenizer["post_processor"]["processors"][1]["single"];
    assert_eq!(single[0]["SpecialToken"]["id"], "<|end|>");
    let config = json_of(&files, "tokenizer_config.json");
    assert_eq!(
        (&config["eos_token"], &config["chat_template"]),
        (&json!("<|end|>"), &json!("{{ messages }}"))
    );
    assert_eq!(json_of(&files, "generation_config.json"), json!({ "bos_token_id": 0, "eos_token_id": 0 }));
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let mut bad = byte_level();
    bad.insert("tokenizer.ggml.token_type".into(), Value::Array(Array::I32(vec![1])));
    let error = from_gguf(Path::new("x.gguf"), &bad).unwrap_err();
    assert!(error.to_string().contains("tokenizer.ggml.token_type: expected 8 entries"), "{error}");
}

#[test]
fn odd_metadata_lose_what_is_odd() {
    let mut odd = byte_level();
    odd.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(99));
    odd.insert("tokenizer.ggml.merges".into(), strings(&["a b", "a missing", "nothing", "b a"]));
    odd.insert("tokenizer.ggml.pre".into(), Value::String("of tomorrow".into()));
    let tokenizer = json_of(&files(&odd), "tokenizer.json");
    assert_eq!(tokenizer["model"]["merges"], json!(["a b"]));
    assert_eq!(tokenizer["post_processor"]["type"], "ByteLevel");
    let mut wordpiece = byte_level();
    wordpiece.insert("tokenizer.ggml.model".into(), Value::String("bert".into()));
    assert!(files(&wordpiece).is_empty());
    assert!(files(&Metadata::new()).is_empty());
}

#[test]
fn tokenizers_without_a_form_in_gguf_are_refused() {
    let refused = |tokenizer: Json, part: &str| {
        let bytes = serde_json::to_vec(&tokenizer).unwrap();
        let error = back(vec![("tokenizer.json".into(), bytes)], 4).unwrap_err();
        assert!(error.to_string().contains(part) && error.hint().is_some(), "{error}");
    };
    refused(json!({ "model": { "type": "WordPiece" } }), "WordPiece");
    let odd = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "x+" } }, { "type": "ByteLevel", "use_regex": false } ] });
    refused(json!({ "model": { "type": "BPE" }, "pre_tokenizer": odd }), "x+");
    let broken = back(vec![("tokenizer.json".into(), b"{".to_vec())], 4).unwrap_err();
    assert!(broken.to_string().contains("tokenizer.json"), "{broken}");
}

#[test]
fn rows_and_tokens_may_disagree() {
    let after = back(files(&byte_level()), 3).unwrap();
    assert_eq!(after["tokenizer.ggml.tokens"], strings(&["<|end|>", "<tool>", "a"]));
    let after = back(files(&byte_level()), 9).unwrap();
    assert_eq!(after["tokenizer.ggml.tokens"].as_strings().unwrap()[8], "[PAD8]");
    for rows in [10usize.pow(13), usize::MAX] {
        let error = back(files(&byte_level()), rows).unwrap_err();
        let (text, hint) = (error.to_string(), error.hint().unwrap());
        assert!(text.contains("expected 9 tokens") && hint.contains("different models"), "{text}");
    }
}
