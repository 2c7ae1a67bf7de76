//! Safetensors headers, one broken rule at a time.

use std::path::Path;

use llmc::io::safetensors::parse;
use llmc::tensor::DType;

use super::{check, file_of, file_with};

fn refuses(case: &str, bytes: &[u8], words: &[&str]) {
    let mut words = words.to_vec();
    words.push("evil.safetensors");
    check(case, parse(Path::new("evil.safetensors"), 0, bytes), &words);
}

/// A header with one tensor `w`.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn lengths_that_the_file_does_not_have() {
    refuses("empty", b"", &["at least 8 bytes", "found 0 bytes"]);
    refuses("seven bytes", &[0; 7], &["at least 8 bytes", "found 7 bytes"]);
    refuses("endless header", &[0xff; 16], &["at most 8 bytes", "18446744073709551615"]);
    refuses("header beyond the end", &[9, 0, 0, 0, 0, 0, 0, 0, b'{'], &["at most 1 bytes", "length of 9"]);
    let whole = file_of(&["a", "b"]);
    refuses("cut in the header", &whole[..20], &["expected a header of at most 12 bytes"]);
    refuses("cut in the data", &whole[..whole.len() - 1], &["b: ", "within the 31 bytes", "16..32"]);
}

#[test]
fn a_header_longer_than_readers_accept() {
    let mut bytes = 100_000_001u64.to_le_bytes().to_vec();
    bytes.resize(100_000_009, b' ');
    refuses("100 MB and one", &bytes, &["at most 100000000 bytes", "100000001"]);
}

#[test]
fn headers_that_are_no_json_object_of_tensors() {
    refuses("no JSON", &file_with("hello", 0), &["JSON header", "line 1"]);
    refuses("a list", &file_with("[]", 0), &["JSON header", "invalid type"]);
    refuses("two objects", &file_with("{}{}", 0), &["JSON header", "trailing"]);
    refuses("deep nesting", &file_with("[".repeat(100_000), 0), &["JSON header"]);
    refuses("deep nesting inside", &file_with(format!(r#"{{"w":{}"#, "[".repeat(100_000)), 0), &["w: "]);
    refuses(
        "no dtype",
        &file_with(r#"{"w":{"shape":[],"data_offsets":[0,0]}}"#, 0),
        &["w: ", "missing field `dtype`"],
    );
    refuses("a number", &file_with(r#"{"w":7}"#, 0), &["w: ", "invalid type"]);
    refuses(
        "metadata of numbers",
        &file_with(r#"{"__metadata__":{"a":1}}"#, 0),
        &["__metadata__: ", "a string"],
    );
}

#[test]
fn names_that_are_not_utf8() {
    refuses("byte", &file_with(b"{\"w\xff\":{}}", 0), &["UTF-8", "offset 11"]);
    refuses("lone surrogate", &file_with(r#"{"\ud800":{}}"#, 0), &["JSON header", "hex escape"]);
}

#[test]
fn shapes_and_types_that_make_no_sense() {
    let refuses = |case: &str, header: String, words: &[&str]| refuses(case, &file_with(header, 16), words);
    refuses("negative", one("F32", "[-1]", "[0,4]"), &["w: ", "`-1`"]);
    refuses("fraction", one("F32", "[1.5]", "[0,4]"), &["w: ", "1.5"]);
    refuses("beyond 64 bits", one("F32", "[99999999999999999999]", "[0,4]"), &["w: "]);
    refuses(
        "overflow",
        one("F32", "[4294967296,4294967296]", "[0,16]"),
        &["w: ", "fits", "[4294967296, 4294967296]"],
    );
    refuses("overflow in bytes", one("F64", "[2305843009213693952]", "[0,16]"), &["w: ", "fits"]);
    refuses(
        "too short",
        one("F32", "[2,2]", "[0,12]"),
        &["w: ", "16 bytes for F32 [2, 2]", "found 12 bytes"],
    );
    refuses("too long", one("BF16", "[2,2]", "[0,16]"), &["w: ", "8 bytes for BF16", "found 16 bytes"]);
    refuses("unknown type", one("F33", "[4]", "[0,16]"), &["w: ", "a dtype", "\"F33\""]);
    refuses("a GGUF type", one("q4_0", "[32]", "[0,18]"), &["w: ", "a dtype"]);
    for dtype in ["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"] {
        refuses("unsupported type", one(dtype, "[16]", "[0,16]"), &["w: ", "does not read", dtype]);
    }
}

#[test]
fn bytes_that_are_not_the_tensors_own() {
    refuses(
        "beyond the end",
        &file_with(one("F32", "[4]", "[4,20]"), 16),
        &["w: ", "within the 16 bytes", "4..20"],
    );
    refuses("backwards", &file_with(one("F32", "[4]", "[16,0]"), 16), &["w: ", "16..0"]);
    refuses(
        "near the end of numbers",
        &file_with(one("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 16),
        &["w: "],
    );
    refuses("three offsets", &file_with(one("F32", "[4]", "[0,16,16]"), 16), &["w: "]);
    refuses(
        "bytes after the last",
        &file_with(one("F32", "[4]", "[0,16]"), 20),
        &["4 bytes that belong to no tensor"],
    );
    refuses(
        "bytes before the first",
        &file_with(one("F32", "[4]", "[4,20]"), 20),
        &["w: ", "offset 0", "a hole"],
    );
    let two = |offsets: &str| {
        file_with(
            format!(
                r#"{{"v":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}},{}"#,
                &one("F32", "[4]", offsets)[1..]
            ),
            36,
        )
    };
    refuses("overlap", &two("[12,28]"), &["w: ", "expected offset 16", "offset 12: an overlap"]);
    refuses("hole", &two("[20,36]"), &["w: ", "expected offset 16", "offset 20: a hole"]);
}

#[test]
fn the_same_name_twice() {
    refuses("twice", &file_of(&["a", "w", "w"]), &["w: ", "each name once", "twice"]);
    let field = r#"{"w":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}}"#;
    refuses("a field twice", &file_with(field, 4), &["w: ", "duplicate field"]);
}

#[test]
fn what_is_odd_but_allowed() {
    let accepts = |header: &str, data: usize| parse(Path::new("odd"), 3, &file_with(header, data)).unwrap();
    assert!(accepts("{}", 0).tensors.is_empty());
    assert!(accepts("{} \n  ", 0).tensors.is_empty());
    assert_eq!(accepts(r#"{"__metadata__":{"format":"pt"}}"#, 0).metadata["format"], "pt");
    assert!(accepts(r#"{"__metadata__":null}"#, 0).metadata.is_empty());
    let scalar = &accepts(&one("I64", "[]", "[0,8]"), 8).tensors[0];
    assert_eq!((scalar.dtype, scalar.shape.len(), scalar.range.len(), scalar.file), (DType::I64, 0, 8, 3));
    let empty = &accepts(&one("F32", "[0,18446744073709551615]", "[0,0]"), 0).tensors[0];
    assert!(empty.range.is_empty());
    let unordered = r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#;
    let names: Vec<String> = accepts(unordered, 3).tensors.into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["a", "b"]);
}
