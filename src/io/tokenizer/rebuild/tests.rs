//! Tokenizers built from SentencePiece models and from vocab.json, as a GGUF gets them; the table is SentencePiece's own.
#![allow(clippy::unwrap_used)]

use serde_json::{Value as Json, json};

use crate::io::gguf::{Metadata, Value};
use crate::io::tokenizer::{Files, to_gguf};
use crate::io::{Checkpoint, SideFile};
use crate::test_support::{self, fixture};

fn side_file(name: &str, bytes: Vec<u8>) -> SideFile {
    SideFile { name: name.into(), bytes: Some(bytes), path: name.into() }
}

fn checkpoint(files: Vec<SideFile>) -> Checkpoint {
    let mut checkpoint = test_support::checkpoint("tiny-llama");
    checkpoint.config = None;
    checkpoint.side_files = files;
    checkpoint
}

fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("sentencepiece/{name}"))).unwrap()
}

fn metadata(checkpoint: &Checkpoint, rows: usize) -> Metadata {
    to_gguf(&Files::read(checkpoint).unwrap().unwrap(), &Json::Null, rows).unwrap()
}

/// The model of that name, under settings, with two rows more than pieces; and SentencePiece's own table of it.
fn of_pieces(name: &str, settings: Json) -> (Metadata, Vec<Json>) {
    let goldens: Json = serde_json::from_slice(&fixture_bytes("goldens.json")).unwrap();
    let pieces = goldens[name]["pieces"].as_array().unwrap().clone();
    let files = vec![
        side_file("tokenizer.model", fixture_bytes(&format!("{name}.model"))),
        side_file("tokenizer_config.json", settings.to_string().into_bytes()),
    ];
    (metadata(&checkpoint(files), pieces.len() + 2), pieces)
}

fn get<'a>(metadata: &'a Metadata, key: &str) -> &'a Value {
    &metadata[&format!("tokenizer.ggml.{key}")]
}

#[track_caller]
fn check_table(metadata: &Metadata, pieces: &[Json]) {
    let tokens = get(metadata, "tokens").as_strings().unwrap();
    let scores = get(metadata, "scores").as_f32s().unwrap();
    let types = get(metadata, "token_type").as_i32s().unwrap();
    assert_eq!(
        (tokens.len(), scores.len(), types.len()),
        (pieces.len() + 2, pieces.len() + 2, pieces.len() + 2)
    );
    for (id, piece) in pieces.iter().enumerate() {
        assert_eq!(json!(tokens[id]), piece[0]);
        assert_eq!(scores[id], piece[1].as_f64().unwrap() as f32, "{piece}");
        let expected = match piece[0].as_str().unwrap() {
            "<unk>" => 2,
            "<sep>" => 4,
            _ if piece[2] == true => 5,
            _ if piece[3] == true => 6,
            _ if piece[4] == true => 3,
            _ => 1,
        };
        assert_eq!(types[id], expected, "{piece}");
    }
    assert_eq!(tokens[pieces.len() + 1], format!("[PAD{}]", pieces.len() + 1));
    assert!(scores[pieces.len() + 1] <= -1000.0);
}

#[test]
fn a_bpe_model_keeps_its_scores_and_types() {
    let (metadata, pieces) = of_pieces("bpe", Json::Null);
    check_table(&metadata, &pieces);
    assert_eq!(get(&metadata, "model").as_str(), Some("llama"));
    let ids = ["unknown", "bos", "eos"].map(|key| get(&metadata, &format!("{key}_token_id")).as_u64());
    assert_eq!(ids, [Some(0), Some(1), Some(2)]);
    assert!(!metadata.contains_key("tokenizer.ggml.padding_token_id"));
    let flags =
        ["add_bos_token", "add_eos_token", "add_space_prefix"].map(|key| get(&metadata, key).as_bool());
    assert_eq!(flags, [Some(true), Some(false), Some(true)]);
    let settings = json!({ "add_bos_token": false, "add_eos_token": true, "eos_token": "<sep>",
        "added_tokens_decoder": { "600": { "content": "<turn>", "special": true } } });
    let (metadata, _) = of_pieces("bpe", settings);
    let flags = ["add_bos_token", "add_eos_token"].map(|key| get(&metadata, key).as_bool());
    assert_eq!(flags, [Some(false), Some(true)]);
    assert_eq!(get(&metadata, "eos_token_id").as_u64(), Some(3));
    assert_eq!(get(&metadata, "tokens").as_strings().unwrap()[600], "<turn>");
    assert_eq!(get(&metadata, "token_type").as_i32s().unwrap()[600], 3);
}

#[test]
fn a_unigram_model_keeps_its_normalization() {
    let (metadata, pieces) = of_pieces("unigram", Json::Null);
    check_table(&metadata, &pieces);
    assert_eq!(get(&metadata, "model").as_str(), Some("t5"));
    assert_eq!(get(&metadata, "padding_token_id").as_u64(), Some(3));
    assert_eq!(get(&metadata, "remove_extra_whitespaces").as_bool(), Some(true));
    let map = get(&metadata, "precompiled_charsmap").as_bytes().unwrap();
    let model = fixture_bytes("unigram.model");
    assert!(map.len() > 100 && model.windows(map.len()).any(|bytes| bytes == map));
}

#[test]
fn a_damaged_model_is_refused_by_name() {
    let files = vec![side_file("tokenizer.model", b"IQ== 0\nIg== 1\n".to_vec())];
    let error = Files::read(&checkpoint(files)).unwrap_err();
    assert!(error.to_string().contains("tokenizer.model: expected a SentencePiece model"), "{error}");
}

/// tiny-qwen3-moe's vocabulary and merges, as older copies of Qwen have them.
fn vocab_and_merges(settings: &Json) -> Checkpoint {
    let bytes = std::fs::read(fixture("tiny-qwen3-moe/tokenizer.json")).unwrap();
    let model = serde_json::from_slice::<Json>(&bytes).unwrap()["model"].clone();
    let merges = crate::io::tokenizer::table::merges(&json!({ "model": model })).join("\n");
    checkpoint(vec![
        side_file("vocab.json", model["vocab"].to_string().into_bytes()),
        side_file("merges.txt", format!("#version: 0.2\n{merges}\n").into_bytes()),
        side_file("tokenizer_config.json", settings.to_string().into_bytes()),
    ])
}

#[test]
fn the_class_or_the_models_type_names_the_pre_tokenizer() {
    let class = |name: &str| json!({ "tokenizer_class": name });
    let pre = |settings: Json, model_type: &str| {
        let mut checkpoint = vocab_and_merges(&settings);
        checkpoint.config = Some(json!({ "model_type": model_type }));
        let files = Files::read(&checkpoint).unwrap()?;
        let metadata = to_gguf(&files, &Json::Null, 900).unwrap();
        assert_eq!(get(&metadata, "model").as_str(), Some("gpt2"));
        assert!(get(&metadata, "merges").as_strings().unwrap().len() > 50);
        get(&metadata, "pre").as_str().map(str::to_owned)
    };
    assert_eq!(pre(class("Qwen2Tokenizer"), "x").as_deref(), Some("qwen2"));
    assert_eq!(pre(class("GPT2Tokenizer"), "qwen2").as_deref(), Some("gpt-2"));
    assert_eq!(pre(Json::Null, "qwen3_moe").as_deref(), Some("qwen2"));
    assert_eq!(pre(Json::Null, "starcoder2").as_deref(), Some("gpt-2"));
    assert_eq!(pre(class("RobertaTokenizer"), "qwen2"), None);
    assert_eq!(pre(Json::Null, "llama"), None);
}
