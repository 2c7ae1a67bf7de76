//! Any bytes as a safetensors file: an error, or tensors that lie in the file and are as long as their shapes say.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llmc::io::safetensors::parse;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = parse(Path::new("fuzz.safetensors"), 0, bytes) else { return };
    for tensor in header.tensors {
        let len = tensor.dtype.byte_len(&tensor.shape).expect("the parser has checked the size");
        assert_eq!(bytes[tensor.range].len(), len);
    }
});
