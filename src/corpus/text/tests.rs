//! Texts from every kind of source, and the errors of bad ones.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::super::dataset;
use super::*;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// The text of a file with this name and content.
fn text(name: &str, bytes: &[u8]) -> Result<String> {
    let folder = folder(&[(name, bytes)]);
    let spec = folder.path().join(name);
    Text::open_with(spec.to_str().unwrap(), folder.path()).map(|text| text.text)
}

/// The error and its hint.
fn message(result: Result<String>) -> String {
    let error = result.unwrap_err();
    format!("{error}; {}", error.hint().unwrap())
}

fn parquet_of(column: &str, texts: &[&str], compression: Compression) -> Vec<u8> {
    let schema = format!("message m {{ required int64 id; required binary {column} (STRING); }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let ids: Vec<i64> = (0..texts.len() as i64).collect();
    let mut ids_column = group.next_column().unwrap().unwrap();
    ids_column.typed::<parquet::data_type::Int64Type>().write_batch(&ids, None, None).unwrap();
    ids_column.close().unwrap();
    let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
    let mut texts_column = group.next_column().unwrap().unwrap();
    texts_column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    texts_column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn plain_text_is_read_byte_for_byte() {
    for content in ["one\r\ntwo\n\n", " naïve 🦙", "{\"text\": 1}"] {
        assert_eq!(text("a.txt", content.as_bytes()).unwrap(), content);
        assert_eq!(text("raw", content.as_bytes()).unwrap(), content);
    }
}

#[test]
fn rows_are_joined_by_an_empty_line() {
    let lines = b"{\"text\": \"one\\n\", \"id\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"two\"}";
    assert_eq!(text("a.jsonl", lines).unwrap(), "one\n\n\n\n\ntwo");
    for codec in [Compression::SNAPPY, Compression::UNCOMPRESSED] {
        let table = parquet_of("text", &["one\n", "", "two 🦙"], codec);
        assert_eq!(text("a.parquet", &table).unwrap(), "one\n\n\n\n\ntwo 🦙");
    }
}

#[test]
fn marks_and_utf_16_are_read() {
    assert_eq!(text("a.txt", b"\xef\xbb\xbfna\xc3\xafve").unwrap(), "naïve");
    let little: Vec<u8> = "\u{feff}naïve 🦙".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(text("a.txt", &little).unwrap(), "naïve 🦙");
    let big: Vec<u8> = "\u{feff}naïve 🦙".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(text("a.txt", &big).unwrap(), "naïve 🦙");
    // Half a pair of surrogates, and half a unit.
    for broken in [&little[..little.len() - 2], &little[..little.len() - 1]] {
        let broken = message(text("a.txt", broken));
        assert!(broken.contains("expected UTF-16 text") && broken.contains("iconv"), "{broken}");
    }
    assert_eq!(text("a.jsonl", b"\xef\xbb\xbf{\"text\": \"one\"}\n").unwrap(), "one");
    assert_eq!(text("a.json", b"\xef\xbb\xbf[{\"text\": \"one\"}]").unwrap(), "one");
    let table = message(text("a.jsonl", &little));
    assert!(
        table.contains("expected UTF-8 text, found UTF-16") && table.contains("iconv -f UTF-16"),
        "{table}"
    );
}

#[test]
fn columns_named_text_are_read_of_csv_and_tsv() {
    let csv = b"\xef\xbb\xbfid,text\r\n1,\"one, and \"\"more\"\"\"\r\n2,\"two\nlines\"\r\n";
    assert_eq!(text("a.csv", csv).unwrap(), "one, and \"more\"\n\ntwo\nlines");
    assert_eq!(text("a.tsv", b"text\tid\none, two\t1\n").unwrap(), "one, two");
    let other = message(text("a.csv", b"id,body\n1,one\n"));
    assert!(other.contains("row 0: expected text under \"text\", found id, body"), "{other}");
    let short = message(text("a.csv", b"id,text\n1\n"));
    assert!(short.contains("row 0: expected a record as long as the header"), "{short}");
}

#[test]
fn rows_of_null_are_left_out() {
    let lines = b"{\"text\": null}\n{\"text\": \"one\"}\n{\"text\": null}\n{\"text\": \"two\"}";
    assert_eq!(text("a.jsonl", lines).unwrap(), "one\n\ntwo");
    let none = message(text("a.jsonl", b"{\"text\": null}"));
    assert!(none.contains("expected text, found none"), "{none}");
    let later = message(text("a.jsonl", b"{\"text\": null}\n{\"text\": 1}"));
    assert!(later.contains("row 1: expected text under \"text\", found 1"), "{later}");
}

#[test]
fn bad_texts_are_named() {
    let utf8 = message(text("a.txt", b"ok \xe9t\xe9"));
    assert!(
        utf8.contains("a.txt: expected UTF-8 text, found byte 0xe9 at offset 3") && utf8.contains("iconv"),
        "{utf8}"
    );
    let empty = message(text("a.txt", b" \n"));
    assert!(empty.contains("expected text, found none in 2 bytes"), "{empty}");
    let field = message(text("a.jsonl", b"{\"text\": \"\"}\n\n{\"txt\": \"\"}"));
    assert!(field.contains("row 1: expected text under \"text\", found txt"), "{field}");
    let number = message(text("a.jsonl", b"{\"text\": 1}"));
    assert!(number.contains("row 0: expected text under \"text\", found 1"), "{number}");
    let json = message(text("a.jsonl", b"{\"text\": "));
    assert!(json.contains("row 0: "), "{json}");
    let none = message(text("a.jsonl", b""));
    assert!(none.contains("at least one row"), "{none}");
    let mixed = message(text("a.jsonl", b"{\"text\": \"\xff\"}"));
    assert!(mixed.contains("row 0: expected a line of UTF-8"), "{mixed}");
}

/// Files from pyarrow (`fixtures/text`), in row groups of two, with a column of lists beside the text.
#[test]
fn parquet_of_pyarrow_is_read() {
    let table = |codec: &str| {
        let path = crate::test_support::fixture(&format!("text/{codec}.parquet"));
        Text::open_with(path.to_str().unwrap(), Path::new("")).map(|text| text.text)
    };
    for codec in ["snappy", "none"] {
        assert_eq!(table(codec).unwrap(), "\n\n = Title = \n\n\nnaïve 🦙\n\n\n\n\nthe last");
    }
    let zstd = message(table("zstd"));
    assert!(zstd.contains("compressed with ZSTD") && zstd.contains("rewrite it"), "{zstd}");
}

#[test]
fn parquet_that_cannot_be_read_is_named() {
    let column = message(text("a.parquet", &parquet_of("body", &["x"], Compression::SNAPPY)));
    assert!(column.contains("row 0: expected text under \"text\", found id, body"), "{column}");
    let broken = message(text("a.parquet", b"PAR1 not really PAR1"));
    assert!(broken.contains("expected a parquet file"), "{broken}");
    let mut cut = parquet_of("text", &["x"], Compression::SNAPPY);
    cut.truncate(cut.len() - 9);
    assert!(message(text("a.parquet", &cut)).contains("expected a parquet file"));
}

#[test]
fn folders_and_missing_files_are_refused() {
    let folder = folder(&[]);
    let error = Text::open_with(folder.path().to_str().unwrap(), folder.path()).unwrap_err();
    assert!(error.to_string().contains("a folder") && error.exit_code() == 2, "{error}");
    let missing = folder.path().join("missing.txt");
    let error = Text::open_with(missing.to_str().unwrap(), folder.path()).unwrap_err();
    assert!(error.to_string().contains("missing.txt"), "{error}");
}

#[test]
fn dataset_names_are_those_of_the_hub() {
    let parts = |spec: &str| dataset::parse(spec, "test").map(|d| format!("{d:?}"));
    for spec in ["org/name", "org/name:test", "org/name@main", "org/name@main:c/validation"] {
        assert!(parts(spec).is_some(), "{spec}");
    }
    for spec in ["name", "org/name:", "org/name:/x", "org/name:a/b/c", "org/name:../x", "a b/c", "/org/name"]
    {
        assert!(parts(spec).is_none(), "{spec}");
    }
}

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A cache with one dataset, `org/name`, that has these files.
fn cache(files: &[&str]) -> TempDir {
    let line = |name: &str| format!("{{\"text\": \"{name}\"}}").into_bytes();
    let folder = folder(&[("datasets--org--name/refs/main", COMMIT.as_bytes())]);
    for name in files {
        let path = folder.path().join("datasets--org--name/snapshots").join(COMMIT).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, line(name)).unwrap();
    }
    folder
}

#[test]
fn splits_are_found_in_the_cache() {
    let check = |files: &[&str], spec: &str, expected: &[&str]| {
        let found = Text::open_with(spec, cache(files).path()).unwrap();
        assert_eq!(found.text, expected.join(BETWEEN_ROWS), "{spec} in {files:?}");
    };
    check(&["test.jsonl", "train.jsonl"], "org/name", &["test.jsonl"]);
    check(&["test.jsonl", "train.jsonl"], "org/name@main:train", &["train.jsonl"]);
    let shards = ["data/test-00000-of-00002.jsonl", "data/test-00001-of-00002.jsonl"];
    check(&[shards[1], shards[0], "data/test-extra.jsonl", "README.md"], "org/name:test", &shards);
    let configs = ["small/test-00000-of-00001.jsonl", "large/test-00000-of-00001.jsonl"];
    check(&configs, "org/name:large/test", &configs[1..]);
    check(
        &["small/test/0000.jsonl", "small/train/0000.jsonl"],
        "org/name:small/test",
        &["small/test/0000.jsonl"],
    );
    check(&["only/test-0.jsonl"], &format!("org/name@{COMMIT}"), &["only/test-0.jsonl"]);
}

#[test]
fn errors_for_missing_splits_say_how_to_get_them() {
    let missing = |files: &[&str], spec: &str| {
        message(Text::open_with(spec, cache(files).path()).map(|text| text.text))
    };
    let other = missing(&[], "org/other:test");
    assert!(other.contains("hf download org/other --repo-type dataset --revision main"), "{other}");
    let split = missing(&["train.jsonl"], "org/name:c/test");
    assert!(split.contains("expected files of c/test") && split.contains("train.jsonl"), "{split}");
    let two = missing(&["a/test-0.jsonl", "b/test-0.jsonl"], "org/name");
    assert!(
        two.contains("2 configs with a split test: a, b") && two.contains("name one: org/name:a/test"),
        "{two}"
    );
}
