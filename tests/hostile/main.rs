//! Hostile input: whatever is in a file, opening it ends in a checkpoint or in an error that names file, tensor, expected
//! and found, and says what to do. No panic, no allocation that the file does not back.
#![allow(clippy::unwrap_used)]

mod alloc;
mod folders;
mod headers;
mod properties;

use llmc::error::Error;

#[test]
fn what_is_held_is_counted() {
    let ((), held) = alloc::peak(|| drop(std::hint::black_box(vec![1u8; 1 << 20])));
    assert!(held >= 1 << 20, "{held} bytes");
}

/// A safetensors file: a header and so many bytes of data.
fn file_with(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A file of F32 tensors of four values each.
fn file_of(tensors: &[&str]) -> Vec<u8> {
    let entry = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2,2],"data_offsets":[{},{}]}}"#, 16 * i, 16 * i + 16)
    };
    let entries: Vec<String> = tensors.iter().enumerate().map(entry).collect();
    file_with(format!("{{{}}}", entries.join(",")), 16 * tensors.len())
}

/// Checks that an error says all of `words`, and what to do.
fn check<T>(case: &str, result: Result<T, Error>, words: &[&str]) {
    let Err(error) = result else { panic!("{case}: accepted") };
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{case}: {word:?} is not in {text:?}");
    }
    assert!(error.hint().is_some_and(|hint| hint.len() > 10), "{case}: no hint beside {text:?}");
}
