//! Tokenizers of the fixtures and of a GGUF's metadata, and the special tokens in the files beside them.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::test_support::{self, fixture};

/// A tokenizer of two letters, a byte-level space and special tokens; ids 6 and 7 are added after the vocabulary.
fn tokenizer_json(post_processor: Value) -> Value {
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false })
    };
    json!({
        "version": "1.0",
        "truncation": { "max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<p>" },
        "added_tokens": [added(0, "<p>"), added(1, "<s>"), added(6, "</s>"), added(7, "<turn>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true },
        "post_processor": post_processor,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": { "<p>": 0, "<s>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5 }, "merges": ["a b"] },
    })
}

fn adding_bos() -> Value {
    json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } },
        { "Sequence": { "id": "A", "type_id": 0 } }], "pair": [{ "Sequence": { "id": "A", "type_id": 0 } },
        { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } })
}

/// A checkpoint with these files beside its weights.
fn checkpoint(files: &[(&str, Value)]) -> Checkpoint {
    let side = |(name, json): &(&str, Value)| SideFile {
        name: (*name).to_owned(),
        bytes: Some(json.to_string().into_bytes()),
        path: PathBuf::from(name),
    };
    let mut checkpoint = test_support::checkpoint("tiny-llama");
    checkpoint.config = None;
    checkpoint.side_files = files.iter().map(side).collect();
    checkpoint
}

fn open(post_processor: Value, others: &[(&str, Value)]) -> Tokenizer {
    let mut files = vec![("tokenizer.json", tokenizer_json(post_processor))];
    files.extend_from_slice(others);
    Tokenizer::open(&checkpoint(&files)).unwrap()
}

fn config(json: Value) -> (&'static str, Value) {
    ("tokenizer_config.json", json)
}

#[test]
fn texts_become_ids_and_come_back() {
    let tokenizer = open(Value::Null, &[]);
    // Longer than the truncation, shorter than the padding: neither is applied.
    assert_eq!(tokenizer.encode("ab a b", true).unwrap(), [5, 4, 2, 4, 3]);
    assert_eq!(tokenizer.decode(&[5, 4, 2, 4, 3], true).unwrap(), "ab a b");
    assert_eq!(tokenizer.encode("", true).unwrap(), Vec::<u32>::new());
    assert_eq!(tokenizer.encode("a<turn>b", false).unwrap(), [2, 7, 3]);
    // The vocabulary has none of the letters of `<turn>`.
    assert_eq!(tokenizer.encode_plain("a<turn>b", false).unwrap(), [2, 3]);
    assert_eq!(tokenizer.decode(&[2, 7, 3], true).unwrap(), "ab");
    assert_eq!(tokenizer.decode(&[2, 7, 3, 99], false).unwrap(), "a<turn>b");
    assert_eq!((tokenizer.id("<turn>"), tokenizer.id("no")), (Some(7), None));
}

/// The vocabulary and merges of a fixture's tokenizer.json in files of their own.
fn from_tokenizer_json(name: &str, settings: Value) -> Checkpoint {
    let bytes = std::fs::read(fixture(&format!("{name}/tokenizer.json"))).unwrap();
    let tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
    let merge = |merge: &Value| match merge.as_array() {
        Some(pair) => pair.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>().join(" "),
        None => merge.as_str().unwrap().to_owned(),
    };
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge);
    let merges = ["#version: 0.2".to_owned()].into_iter().chain(merges).collect::<Vec<_>>().join("\n");
    let mut checkpoint = checkpoint(&[("vocab.json", tokenizer["model"]["vocab"].clone()), config(settings)]);
    let bytes = Some(merges.into_bytes());
    checkpoint.side_files.push(SideFile { name: "merges.txt".into(), bytes, path: "merges.txt".into() });
    checkpoint
}

/// tiny-llama's tokenizer in OPT's files, as `fixtures/generate_tokenizer_ids.py` writes them.
fn opt() -> Checkpoint {
    let settings = json!({ "tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "eos_token": "<|im_end|>",
        "bos_token": { "content": "<|im_end|>" }, "unk_token": "<|endoftext|>", "pad_token": "<|im_start|>" });
    from_tokenizer_json("tiny-llama", settings)
}

#[test]
fn vocabularies_of_other_classes_are_refused() {
    let mut checkpoint = opt();
    checkpoint.side_files.retain(|file| file.name != "tokenizer_config.json");
    let error = Tokenizer::open(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("found vocab.json"), "{error}");
}

#[test]
fn ids_are_those_of_transformers() {
    let goldens = std::fs::read(fixture("tokenizer_ids.json")).unwrap();
    let goldens: Value = serde_json::from_slice(&goldens).unwrap();
    for (name, cases) in goldens.as_object().unwrap() {
        let checkpoint = if name == "opt" { opt() } else { test_support::checkpoint(name) };
        let tokenizer = Tokenizer::open(&checkpoint).unwrap();
        for case in cases.as_array().unwrap() {
            let ids = tokenizer.encode(case["text"].as_str().unwrap(), true).unwrap();
            assert_eq!(json!(ids), case["ids"], "{name}: {case}");
        }
    }
}

/// The files of a case of `fixtures/sentencepiece/generate_goldens.py`.
fn without_tokenizer_json(name: &str) -> Checkpoint {
    if name == "qwen2" {
        return from_tokenizer_json("tiny-qwen3-moe", json!({ "tokenizer_class": "Qwen2Tokenizer" }));
    }
    let bytes = std::fs::read(fixture(&format!("sentencepiece/{name}.model"))).unwrap();
    let mut checkpoint = checkpoint(&[]);
    checkpoint.side_files =
        vec![SideFile { name: "tokenizer.model".into(), bytes: Some(bytes), path: "tokenizer.model".into() }];
    checkpoint
}

#[test]
fn ids_are_those_of_sentencepiece_and_of_transformers_slow_tokenizer() {
    let goldens = std::fs::read(fixture("sentencepiece/goldens.json")).unwrap();
    let goldens: Value = serde_json::from_slice(&goldens).unwrap();
    let mut checked = 0;
    for (name, golden) in goldens.as_object().unwrap() {
        let tokenizer = Tokenizer::open(&without_tokenizer_json(name)).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let ids = tokenizer.encode_plain(case["text"].as_str().unwrap(), false).unwrap();
            assert_eq!(json!(ids), case["ids"], "{name}: {case}");
            checked += 1;
        }
    }
    assert_eq!(checked, 26);
}

#[test]
fn a_piece_model_names_its_own_special_tokens() {
    let tokenizer = Tokenizer::open(&without_tokenizer_json("bpe")).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), &[2][..], true));
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
    let unigram = Tokenizer::open(&without_tokenizer_json("unigram")).unwrap();
    assert_eq!((unigram.eos(), unigram.encode("", true).unwrap()), (&[2][..], vec![2]));
}

#[test]
fn the_files_decide_if_bos_is_added() {
    let check = |post: Value, files: &[(&str, Value)], adds: bool| {
        let tokenizer = open(post, files);
        assert_eq!(tokenizer.adds_bos(), adds, "{files:?}");
        let expected: &[u32] = if adds { &[1, 2] } else { &[2] };
        assert_eq!(tokenizer.encode("a", true).unwrap(), expected, "{files:?}");
        assert_eq!(tokenizer.encode("a", false).unwrap(), [2], "{files:?}");
    };
    let bos = |add: Value| config(json!({ "bos_token": { "content": "<s>" }, "add_bos_token": add }));
    check(Value::Null, &[bos(Value::Null)], false);
    check(Value::Null, &[bos(true.into())], true);
    check(adding_bos(), &[bos(Value::Null)], true);
    check(adding_bos(), &[bos(true.into())], true);
    check(adding_bos(), &[bos(false.into())], false);
    // There is no BOS to add.
    check(Value::Null, &[config(json!({ "add_bos_token": true }))], false);
    check(
        Value::Null,
        &[config(json!({ "add_bos_token": true })), ("generation_config.json", json!({ "bos_token_id": 1 }))],
        true,
    );
}

#[test]
fn ends_are_given_by_id_and_by_name() {
    let check =
        |files: &[(&str, Value)], expected: &[u32]| assert_eq!(open(Value::Null, files).eos(), expected);
    let generation = |ids: Value| ("generation_config.json", json!({ "eos_token_id": ids }));
    check(&[], &[]);
    check(&[generation(6.into())], &[6]);
    check(&[generation(json!([6, 7]))], &[6, 7]);
    check(&[generation(Value::Null), config(json!({ "eos_token": "<turn>" }))], &[7]);
    check(&[generation(6.into()), config(json!({ "eos_token": { "content": "<turn>" } }))], &[6, 7]);
    check(&[generation(6.into()), ("special_tokens_map.json", json!({ "eos_token": "</s>" }))], &[6]);
    check(&[generation(json!(-1)), config(json!({ "eos_token": "no such token" }))], &[]);
    let mut checkpoint = checkpoint(&[("tokenizer.json", tokenizer_json(Value::Null))]);
    checkpoint.config = Some(json!({ "text_config": { "eos_token_id": 6 } }));
    assert_eq!(Tokenizer::open(&checkpoint).unwrap().eos(), [6]);
}

#[test]
fn a_vocabulary_must_fit_the_embedding() {
    let tokenizer = open(Value::Null, &[]);
    assert_eq!(tokenizer.vocabulary_size(), 8);
    for rows in [6, 7, 8, 9] {
        tokenizer.check_fits(rows).unwrap();
    }
    let error = tokenizer.check_fits(5).unwrap_err();
    assert!(error.to_string().contains("5 embedding rows, found ids up to 5"), "{error}");
    assert!(error.hint().unwrap().contains("another model's"));
}

#[test]
fn a_missing_tokenizer_is_an_error_with_advice() {
    let error = Tokenizer::open(&checkpoint(&[])).unwrap_err();
    assert!(error.to_string().contains("expected a tokenizer.json, found none"), "{error}");
    let error = Tokenizer::open(&checkpoint(&[("tekken.json", Value::Null)])).unwrap_err();
    assert!(error.to_string().contains("found tekken.json"), "{error}");
    assert!(error.hint().unwrap().contains("save_pretrained"));
    let error = Tokenizer::open(&checkpoint(&[("tokenizer.model", Value::Null)])).unwrap_err();
    assert!(error.to_string().contains("tokenizer.model: expected a SentencePiece model"), "{error}");
    assert!(error.hint().unwrap().contains("save_pretrained"));
    let error = Tokenizer::open(&checkpoint(&[("tokenizer.json", json!({ "model": 1 }))])).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json: expected a tokenizer"), "{error}");
}

/// The error of a tokenizer.json with other values under these keys.
fn damaged(changes: Value) -> String {
    let mut json = tokenizer_json(Value::Null);
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    let error = Tokenizer::parse("tokenizer.json".into(), json.to_string().as_bytes()).unwrap_err();
    assert!(error.hint().unwrap().contains("get tokenizer.json again"), "{error}");
    error.to_string()
}

#[test]
fn damaged_tokenizers_are_errors() {
    let check = |changes: Value, expected: &str| {
        let error = damaged(changes.clone());
        assert!(error.starts_with("tokenizer.json: ") && error.contains(expected), "{changes}: {error}");
    };
    let replace =
        |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    check(
        json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }),
        "pre_tokenizer.length: expected at least 1",
    );
    check(json!({ "normalizer": replace(json!({ "String": "" }), "x") }), "normalizer: expected a pattern");
    check(json!({ "normalizer": replace(json!({ "Regex": "" }), "x") }), "normalizer: expected a pattern");
    check(json!({ "decoder": replace(json!({ "String": "" }), "x") }), "decoder: expected a pattern");
    check(
        json!({ "decoder": { "type": "Strip", "content": "a", "start": 0, "stop": 9 } }),
        "decoder.stop: expected at most 1",
    );
    // A map of replacements without its tree, one with a tree that points outside, and one that is cut off.
    for charsmap in ["AAAAAA==", "BAAAAP////8=", "BAAAAA=="] {
        check(
            json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": charsmap } }),
            "expected a tokenizer",
        );
    }
    let template = |single: Value| {
        json!({ "post_processor": { "type": "TemplateProcessing", "single": single, "special_tokens": {},
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }] } })
    };
    check(template(json!([{ "SpecialToken": { "id": "<s>", "type_id": 0 } }])), "none for \"<s>\"");
    check(template(json!([{ "Sequence": { "id": "B", "type_id": 0 } }])), "expected one sequence");
    check(
        template(json!(vec![json!({ "Sequence": { "id": "A", "type_id": 0 } }); 100])),
        "at most 64 pieces",
    );
    let unigram = |unknown: u32| json!({ "model": { "type": "Unigram", "unk_id": unknown, "vocab": [["<unk>", 0.0]] } });
    check(unigram(7), "model.unk_id: expected one of 1 tokens, found 7");
    let mut prefixed = tokenizer_json(Value::Null)["model"].clone();
    prefixed["continuing_subword_prefix"] = json!("long");
    check(
        json!({ "model": prefixed }),
        "model.merges: expected merges whose right part begins with \"long\"",
    );
    check(
        json!({ "added_tokens": [{ "id": 4_000_000_000_u32, "content": "x", "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false }] }),
        "added_tokens: expected ids up to",
    );
    let words = json!({ "type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 1_000_000_000, "vocab": { "a": 0 } });
    check(json!({ "model": words }), "max_input_chars_per_word: expected at most 4096");
}

#[test]
fn tokenizers_that_take_all_memory_are_refused() {
    let replace = |content: usize| json!({ "type": "Replace", "pattern": { "String": "x" }, "content": "x".repeat(content) });
    let sequence = |parts: Vec<Value>| json!({ "normalizer": { "type": "Sequence", "normalizers": parts } });
    let error = damaged(sequence(vec![replace(1000); 5]));
    assert!(error.contains("normalizer: expected growth of at most 1024 times"), "{error}");
    let decoders = json!({ "decoder": { "type": "Sequence", "decoders": vec![replace(1000); 5] } });
    let error = damaged(decoders);
    assert!(error.contains("decoder: expected growth of at most 1024 times"), "{error}");
    let error = damaged(sequence(vec![replace(1); 100]));
    assert!(error.contains("at most 64 components"), "{error}");
    let error = damaged(json!({ "normalizer": replace(2000) }));
    assert!(error.contains("at most 1024 bytes of replacement"), "{error}");
    let commas = format!("{{\"model\": {{\"merges\": [{}]}}}}", ",".repeat(17 << 20));
    let error = Tokenizer::parse("tokenizer.json".into(), commas.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("at most 16777216 entries"), "{error}");
    let long = json!({ "type": "Split", "pattern": { "Regex": "(".repeat(300) }, "behavior": "Isolated", "invert": false });
    assert!(damaged(json!({ "pre_tokenizer": long })).contains("levels of parentheses"));
}

/// Replacements that pass the check of the file may still be too much for a text.
#[test]
fn texts_that_a_normalizer_blows_up_are_refused() {
    let mut json = tokenizer_json(Value::Null);
    json["normalizer"] =
        json!({ "type": "Replace", "pattern": { "String": "q" }, "content": "a".repeat(900) });
    let tokenizer = Tokenizer::parse("tokenizer.json".into(), json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [5]);
    assert_eq!(tokenizer.encode("q", false).unwrap().len(), 900);
    let error = tokenizer.encode(&"q".repeat(10_000), false).unwrap_err().to_string();
    assert!(error.contains("a normalizer that makes 10000 bytes into 9000000"), "{error}");
}

#[test]
fn no_ids_are_no_text() {
    let mut json = tokenizer_json(Value::Null);
    json["decoder"] = json!({ "type": "BPEDecoder", "suffix": "</w>" });
    let tokenizer = Tokenizer::parse("tokenizer.json".into(), json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.decode(&[], true).unwrap(), "");
}
