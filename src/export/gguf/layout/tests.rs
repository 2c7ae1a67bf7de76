//! What is written, parsed back.

use std::path::Path;

use super::*;
use crate::io::gguf::parse;
use crate::tensor::BlockType;
use crate::test_support::{plan, stored};

#[test]
#[allow(clippy::unwrap_used)]
fn headers_parse_back() {
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::U64(4),
        Value::I64(-4),
        Value::F32(0.5),
        Value::F64(-0.25),
        Value::Bool(true),
        Value::String("ÿ".into()),
        Value::Array(Array::Strings(vec!["a".into(), String::new()])),
        Value::Array(Array::F32(vec![1.0])),
        Value::Array(Array::I32(vec![-7])),
        Value::Array(Array::U32(vec![7])),
        Value::Array(Array::U8(vec![])),
        Value::Array(Array::Bool(vec![false, true])),
        Value::Array(Array::Other(vec![Value::Array(Array::U32(vec![1])), Value::Array(Array::U32(vec![]))])),
    ];
    let metadata: Metadata =
        values.into_iter().enumerate().map(|(i, value)| (format!("key.{i}"), value)).collect();
    let steps = vec![
        stored("a.weight", DType::BF16, &[3, 5]),
        stored("b.weight", DType::Block(BlockType::Q4_0), &[2, 64]),
        stored("c.bias", DType::F32, &[]),
    ];
    let freqs = Constant::vector("rope_freqs.weight", &[1.0, 2.0, 4.0]);
    let file = file(&plan(steps), &metadata, &[freqs]).unwrap();
    let mut bytes = file.header.clone();
    bytes.resize(file.len as usize, 0);
    let parsed = parse(Path::new("x.gguf"), &bytes).unwrap();
    assert_eq!((parsed.version, &parsed.metadata), (3, &metadata));
    let found: Vec<_> =
        parsed.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice())).collect();
    let expected: [(&str, DType, &[usize]); 4] = [
        ("rope_freqs.weight", DType::F32, &[3]),
        ("a.weight", DType::BF16, &[3, 5]),
        ("b.weight", DType::Block(BlockType::Q4_0), &[2, 64]),
        ("c.bias", DType::F32, &[1]),
    ];
    assert_eq!(found, expected);
    let starts: Vec<u64> = parsed.tensors[1..].iter().map(|tensor| tensor.range.start as u64).collect();
    assert_eq!(starts, file.parts.iter().map(|place| place.offset).collect::<Vec<_>>());
    assert_eq!(&bytes[parsed.tensors[0].range.clone()][8..], &4f32.to_le_bytes());
}

#[test]
fn types_that_ggml_lacks_are_refused() {
    let steps = vec![stored("mask", DType::Bool, &[4])];
    let error = file(&plan(steps), &Metadata::new(), &[]).expect_err("ggml has no booleans");
    assert!(error.to_string().contains("mask: GGUF has no element type BOOL"), "{error}");
}
