//! Folders: indexes that lie, shards that are missing, files that are something else.

use std::fs;
use std::path::Path;

use llmc::io::Checkpoint;
use llmc::io::index::INDEX_FILE;
use serde_json::json;
use tempfile::TempDir;

use super::{check, file_of, file_with};

const A: &str = "model-00001-of-00002.safetensors";
const B: &str = "model-00002-of-00002.safetensors";

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> =
        entries.iter().map(|(tensor, shard)| (tensor.to_string(), json!(shard))).collect();
    json!({ "metadata": { "total_size": 32 }, "weight_map": map }).to_string().into_bytes()
}

fn open(path: &Path) -> llmc::Result<Checkpoint> {
    Checkpoint::open(path.to_str().unwrap())
}

fn refuses(case: &str, files: &[(&str, Vec<u8>)], words: &[&str]) {
    check(case, open(folder(files).path()), words);
}

#[test]
fn one_shard_is_no_model() {
    let files = [(A, file_of(&["a"])), (B, file_of(&["b"])), (INDEX_FILE, index(&[("a", A), ("b", B)]))];
    let whole = folder(&files);
    check("a shard", open(&whole.path().join(A)), &[A, "one of the 2 shards"]);
    fs::write(whole.path().join("other.safetensors"), file_of(&["c"])).unwrap();
    open(&whole.path().join("other.safetensors")).unwrap();
    let single = folder(&[(A, file_of(&["a"])), (INDEX_FILE, index(&[("a", A)]))]);
    open(&single.path().join(A)).unwrap();
}

#[test]
fn a_sharded_folder_opens_in_the_order_of_its_shards() {
    let files = [
        (A, file_of(&["x", "a"])),
        (B, file_of(&["b"])),
        (INDEX_FILE, index(&[("b", B), ("a", A), ("x", A)])),
    ];
    let opened = open(folder(&files).path()).unwrap();
    assert_eq!(opened.tensors.keys().collect::<Vec<_>>(), ["x", "a", "b"]);
    assert_eq!(opened.files.len(), 2);
}

#[test]
fn index_entries_that_escape_the_folder() {
    for shard in
        ["../b.safetensors", "/etc/passwd", "..", ".", "", "sub/b.safetensors", "sub\\b", "C:b", "a/", "b\0"]
    {
        let files = [(A, file_of(&["a"])), (INDEX_FILE, index(&[("a", A), ("b", shard)]))];
        refuses(shard, &files, &[INDEX_FILE, "b: ", "plain name", &format!("{shard:?}")]);
    }
}

#[test]
fn shards_that_are_missing() {
    let files = [(A, file_of(&["a"])), (INDEX_FILE, index(&[("a", A), ("b", B)]))];
    refuses("missing", &files, &[INDEX_FILE, "2 shards", "1 missing", B]);
}

#[test]
#[cfg(unix)]
fn a_broken_link_is_a_missing_shard() {
    let folder = folder(&[(A, file_of(&["a"])), (INDEX_FILE, index(&[("a", A), ("b", B)]))]);
    std::os::unix::fs::symlink("../blobs/gone", folder.path().join(B)).unwrap();
    check("broken link", open(folder.path()), &["1 missing", B]);
}

#[test]
fn shards_that_disagree_with_the_index() {
    let with = |a: &[&str], b: &[&str], map: &[(&str, &str)]| {
        [(A, file_of(a)), (B, file_of(b)), (INDEX_FILE, index(map))]
    };
    refuses("not in the index", &with(&["a", "x"], &["b"], &[("a", A), ("b", B)]), &[A, "x: ", "no shard"]);
    refuses(
        "not in the shard",
        &with(&["a"], &["b"], &[("a", A), ("b", B), ("x", B)]),
        &[INDEX_FILE, "x: ", B],
    );
    refuses("in the other", &with(&["a", "b"], &["c"], &[("a", A), ("b", B), ("c", B)]), &[A, "b: ", B]);
    refuses("in both", &with(&["a", "b"], &["b"], &[("a", A), ("b", B)]), &["b: ", "one shard", A, B]);
}

#[test]
fn indexes_that_do_not_parse() {
    let with = |text: &str| [(A, file_of(&["a"])), (INDEX_FILE, text.as_bytes().to_vec())];
    refuses("no JSON", &with("hello"), &[INDEX_FILE, "JSON", "line 1"]);
    refuses("no map", &with("{}"), &[INDEX_FILE, "weight_map"]);
    refuses("an empty map", &with(r#"{"weight_map":{}}"#), &[INDEX_FILE, "weight_map", "empty"]);
    refuses("numbers", &with(r#"{"weight_map":{"a":1}}"#), &[INDEX_FILE, "invalid type"]);
    let twice = format!(r#"{{"weight_map":{{"a":"{A}","a":"{B}"}}}}"#);
    refuses("twice", &with(&twice), &[INDEX_FILE, "\"a\" twice", A, B]);
}

#[test]
fn the_total_size_is_not_relied_upon() {
    for size in [json!(7), json!(32.0), json!("32"), json!(null), json!(-1), json!(1e300)] {
        let text = json!({ "metadata": { "total_size": size }, "weight_map": { "a": A } }).to_string();
        open(folder(&[(A, file_of(&["a"])), (INDEX_FILE, text.into_bytes())]).path()).unwrap();
    }
}

#[test]
fn a_truncated_shard_is_named() {
    let mut cut = file_of(&["b"]);
    cut.truncate(cut.len() - 3);
    let files = [(A, file_of(&["a"])), (B, cut), (INDEX_FILE, index(&[("a", A), ("b", B)]))];
    refuses("truncated", &files, &[B, "b: ", "13 bytes of data"]);
}

#[test]
fn folders_without_weights_that_llmc_reads() {
    refuses("nothing", &[], &["expected", INDEX_FILE, "none of them"]);
    refuses(
        "a pickle",
        &[("pytorch_model.bin", vec![1]), ("config.json", b"{}".to_vec())],
        &["none of them"],
    );
    refuses("hidden", &[(".model.safetensors", file_of(&["a"]))], &["none of them"]);
    refuses(
        "two",
        &[("x.safetensors", file_of(&["a"])), ("y.safetensors", file_of(&["a"]))],
        &["2 weight files", "x."],
    );
    refuses("two GGUF", &[("x.gguf", vec![]), ("y.gguf", vec![])], &["2 weight files", "x.gguf"]);
}

#[test]
fn configs_that_are_not_objects() {
    for config in ["", "[]", "{", "\u{feff}{}"] {
        let files = [("model.safetensors", file_of(&["a"])), ("config.json", config.as_bytes().to_vec())];
        refuses(config, &files, &["config.json", "a JSON object"]);
    }
}

#[test]
fn one_file_takes_its_companions_only_from_a_model_folder() {
    let lone = folder(&[("a.safetensors", file_of(&["a"])), ("tokenizer.json", b"{}".to_vec())]);
    let opened = open(&lone.path().join("a.safetensors")).unwrap();
    assert!(opened.config.is_none() && opened.side_files.is_empty());
    fs::write(lone.path().join("config.json"), r#"{"model_type":"x"}"#).unwrap();
    let opened = open(&lone.path().join("a.safetensors")).unwrap();
    assert_eq!(opened.config.unwrap()["model_type"], "x");
    assert_eq!(opened.side_files[0].name, "tokenizer.json");
}

#[test]
fn paths_that_are_no_checkpoint() {
    let folder = folder(&[("notes.txt", b"hello".to_vec()), ("zeros.safetensors", file_with("", 0))]);
    check("text", open(&folder.path().join("notes.txt")), &["notes.txt", ".safetensors"]);
    check("an empty header", open(&folder.path().join("zeros.safetensors")), &["zeros.safetensors", "JSON"]);
    check("nothing there", open(&folder.path().join("gone")), &["gone", "no such file or folder", "hub id"]);
    check("nothing", Checkpoint::open(""), &["no such file or folder", "hub id"]);
}

#[test]
#[cfg(unix)]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    check("a pipe", open(&pipe), &["model.safetensors", "a regular file"]);
}
