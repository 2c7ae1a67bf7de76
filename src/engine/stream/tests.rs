//! Pieces against the decoding of all ids, with tokenizers that split characters; stop strings split anywhere.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::io::SideFile;
use crate::test_support;

const TEXTS: &[&str] = &[
    "",
    "The capital of France is Paris.",
    "naïve façade – “quoted” 🦙👩‍👩‍👧 日本語 العربية",
    "  leading and trailing  \n\n\t tabs \n",
    "fn main() { println!(\"{}\", 1_000 * 2); }",
    "a\u{0}b\u{fffd}c\u{200b}d",
];

/// Llama 2's form of SentencePiece: words begin with `▁`, unknown characters become bytes, a text's first space is dropped.
/// Ids: 0–255 are bytes, then `▁`, `▁a`, `b`, and `<s>`, which is special.
fn sentencepiece() -> Tokenizer {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "▁a", "b", "<s>"].map(str::to_owned);
    let vocabulary: serde_json::Map<_, _> =
        bytes.chain(words).enumerate().map(|(id, token)| (token, id.into())).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [{ "id": 259, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false }],
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": [] },
    });
    let mut checkpoint = test_support::checkpoint("tiny-llama");
    let bytes = Some(json.to_string().into_bytes());
    checkpoint.side_files = vec![SideFile { name: "tokenizer.json".into(), bytes, path: PathBuf::new() }];
    Tokenizer::open(&checkpoint).unwrap()
}

/// The pieces of a stream; the last one is from `finish`.
fn pieces(tokenizer: &Tokenizer, ids: &[u32], stops: &[&str]) -> Vec<String> {
    let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut stream = TextStream::new(tokenizer, stops);
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn pieces_are_the_whole_text() {
    let byte_level = ["tiny-llama", "tiny-qwen2-sharded", "tiny-qwen3-moe"];
    let tokenizers = byte_level.map(test_support::tokenizer);
    for tokenizer in tokenizers.iter().chain([&sentencepiece()]) {
        for text in TEXTS {
            let ids = tokenizer.encode(text, true).unwrap();
            let whole = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(pieces(tokenizer, &ids, &[]).concat(), whole, "{text:?}");
        }
    }
}

#[test]
fn characters_come_whole() {
    let tokenizer = sentencepiece();
    let ids = [257, 0xF0, 0x9F, 0xA6, 0x99, 258, 256, 259, 258];
    assert_eq!(pieces(&tokenizer, &ids, &[]), ["a", "", "", "", "🦙", "b", " ", "", "b", ""]);
    // The text ends in half a character.
    assert_eq!(pieces(&tokenizer, &[258, 0xF0, 0x9F], &[]), ["b", "", "", "\u{fffd}\u{fffd}"]);
    // Another token follows half a character.
    assert_eq!(pieces(&tokenizer, &[258, 0xF0, 258], &[]), ["b", "", "\u{fffd}b", ""]);
    // Emitted text cannot be withdrawn.
    assert_eq!(pieces(&tokenizer, &[0x41, 0xF0, 258], &[]).concat(), "A\u{fffd}\u{fffd}b");
}

#[test]
fn the_first_space_is_dropped_once() {
    assert_eq!(pieces(&sentencepiece(), &[256, 257, 257], &[]), ["", " a", " a", ""]);
}

#[test]
fn stop_strings_end_a_stream_before_they_show() {
    let tokenizer = sentencepiece();
    let text: Vec<u32> = "one\n\ntwo".bytes().map(u32::from).collect();
    let check =
        |stops: &[&str], expected: &str| assert_eq!(pieces(&tokenizer, &text, stops).concat(), expected);
    check(&[], "one\n\ntwo");
    check(&[""], "one\n\ntwo");
    check(&["\n\n"], "one");
    check(&["\n\n\n"], "one\n\ntwo");
    check(&["tw", "e\n"], "on");
    check(&["wo!", "never"], "one\n\ntwo");
    check(&["o"], "");
    check(&["one\n\ntwo"], "");
    assert_eq!(pieces(&tokenizer, &text[..5], &["\n\nt"]), ["o", "n", "e", "", "", "\n\n"]);
}

#[test]
fn nothing_comes_after_a_stop_string() {
    let mut stops = StopStrings::new(vec!["ab".into(), "bcd".into()]);
    assert_eq!([stops.push("xa"), stops.push("a"), stops.push("bc")], ["x", "a", ""]);
    assert!(stops.stopped);
    assert_eq!(stops.push("more") + &stops.finish(), "");
}

#[test]
fn the_first_complete_stop_string_counts() {
    let mut stops = StopStrings::new(vec!["c".into(), "bcd".into()]);
    // `bc` may become `bcd`, but `c` is complete already.
    assert_eq!(stops.push("abc"), "ab");
    let mut stops = StopStrings::new(vec!["aab".into()]);
    assert_eq!([stops.push("aa"), stops.push("a"), stops.push("é")], ["", "a", "aaé"]);
}
