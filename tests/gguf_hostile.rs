//! GGUF bytes that lie: each lie is an error that names what is wrong, none a panic or a huge allocation.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use llmc::io::gguf::{Gguf, open, parse};
use proptest::prelude::*;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn file(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    [b"GGUF".as_slice(), &3u32.to_le_bytes(), &counts, rest].concat()
}

fn info(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [text(name).as_slice(), &count, &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(name).as_slice(), &kind.to_le_bytes(), value].concat()
}

/// Infos, padding, and 128 bytes of data.
fn tensors(infos: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = file(infos.len() as u64, 0, &infos.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 128, 0);
    bytes
}

fn parsed(bytes: &[u8]) -> llmc::Result<Gguf> {
    parse(Path::new("x.gguf"), bytes)
}

fn refused(bytes: &[u8], part: &str) {
    let error = parsed(bytes).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(format!("{error}; {hint}").contains(part), "{error}; {hint}: does not say {part}");
    assert!(error.to_string().contains("x.gguf") && !hint.is_empty(), "{error}");
}

#[test]
fn an_honest_file_is_read() {
    let gguf = parsed(&tensors(&[info("a", &[8, 2], 0, 0), info("b", &[32], 2, 64)])).unwrap();
    assert_eq!(gguf.tensors[0].shape, [2, 8]);
    assert_eq!(gguf.tensors[1].range.len(), 18);
}

#[test]
fn other_containers_are_named() {
    refused(b"", "magic");
    refused(b"PK\x03\x04....................", "not a GGUF file");
    refused(&[b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 16]].concat(), "big-endian");
    refused(&[b"GGUF".as_slice(), &1u32.to_le_bytes(), &[0; 16]].concat(), "version 1");
    refused(&[b"GGUF".as_slice(), &4u32.to_le_bytes(), &[0; 16]].concat(), "version 4");
}

#[test]
fn counts_beyond_the_file_are_refused_before_allocating() {
    refused(&file(u64::MAX, 0, &[]), "tensor count");
    refused(&file(0, u64::MAX, &[]), "metadata count");
    refused(&file(0, 1, &[0xff; 24]), "metadata key 0");
    let array = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
    refused(&file(0, 1, &key("list", 9, &array)), "list");
    let flags = [1u32.to_le_bytes().as_slice(), &2_000_000u64.to_le_bytes(), &vec![0; 2_000_000]].concat();
    refused(&file(0, 1, &key("bytes", 9, &flags)), "at most 1048576");
}

#[test]
fn metadata_that_break_the_rules() {
    let nested = |depth: usize| {
        let level = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat();
        let last = [0u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
        [level.repeat(depth), last].concat()
    };
    assert!(parsed(&file(0, 1, &key("deep", 9, &nested(3)))).is_ok());
    refused(&file(0, 1, &key("deep", 9, &nested(4))), "nested");
    refused(&file(0, 1, &key("deep", 9, &nested(100_000))), "nested");
    refused(&file(0, 1, &key("kind", 13, &[0; 8])), "value type");
    refused(&file(0, 1, &key("flag", 7, &[2])), "boolean");
    refused(&file(0, 1, &key("text", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), "UTF-8");
    let twice = [key("same", 0, &[1]), key("same", 0, &[1]), vec![0; 16]].concat();
    refused(&file(0, 2, &twice), "twice");
    for alignment in [0u32, 3, 48] {
        refused(&file(0, 1, &key("general.alignment", 4, &alignment.to_le_bytes())), "power of two");
    }
}

#[test]
fn tensors_that_break_the_rules() {
    refused(&tensors(&[info("a", &[1, 1, 1, 1, 1], 0, 0)]), "4 dimensions");
    refused(&tensors(&[info("a", &[8, 0], 0, 0)]), "dimensions");
    refused(&tensors(&[info("a", &[1 << 40, 1 << 40], 0, 0)]), "fits in memory");
    refused(&tensors(&[info("a", &[33], 2, 0)]), "blocks of 32");
    refused(&tensors(&[info("a", &[256], 16, 0)]), "IQ2_XXS");
    refused(&tensors(&[info("a", &[256], 77, 0)]), "type number 77");
    refused(&tensors(&[info("a", &[8], 0, 8)]), "multiple of 32");
    refused(&tensors(&[info("a", &[33], 0, 0)]), "132 bytes");
    refused(&tensors(&[info("a", &[8], 0, u64::MAX - 31)]), "offset");
    refused(&tensors(&[info("a", &[8], 0, 0), info("a", &[8], 0, 32)]), "two tensors");
    refused(&tensors(&[info("a", &[16], 0, 0), info("b", &[8], 0, 32)]), "overlap");
}

/// A small file with a bit of everything.
fn seed() -> Vec<u8> {
    let list = [8u32.to_le_bytes().as_slice(), &2u64.to_le_bytes(), &text("a"), &text("bc")].concat();
    let keys = [
        key("general.architecture", 8, &text("llama")),
        key("general.alignment", 4, &32u32.to_le_bytes()),
        key("tokenizer.ggml.model", 8, &text("gpt2")),
        key("tokenizer.ggml.tokens", 9, &list),
        key("tokenizer.ggml.merges", 9, &list),
        key("llama.context_length", 4, &8u32.to_le_bytes()),
        key("llama.embedding_length", 4, &8u32.to_le_bytes()),
        key("llama.block_count", 4, &1u32.to_le_bytes()),
        key("llama.feed_forward_length", 4, &8u32.to_le_bytes()),
        key("llama.attention.head_count", 4, &2u32.to_le_bytes()),
        key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()),
    ];
    let infos = [info("blk.0.attn_q.weight", &[8, 8], 1, 0), info("rope_freqs.weight", &[2], 0, 128)];
    let mut bytes = file(2, keys.len() as u64, &[keys.concat(), infos.concat()].concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 160, 0);
    bytes
}

/// Reads every tensor of a file that opens; returns their number.
fn open_and_read(bytes: &[u8]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = open(&path) else { return 0 };
    for source in checkpoint.tensors.values() {
        let [rows, cols] = source.rows_cols();
        let _ = checkpoint.read_rows(source, 0..rows, &mut vec![0.0; rows * cols]);
    }
    checkpoint.tensors.len()
}

#[test]
fn the_seed_opens() {
    assert_eq!(parsed(&seed()).unwrap().tensors.len(), 2);
    assert!(open_and_read(&seed()) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                 cut in any::<prop::sample::Index>()) {
        let mut bytes = seed();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        open_and_read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        open_and_read(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parsed(&[&seed()[..8], bytes.as_slice()].concat());
        let _ = parsed(&bytes);
    }
}
