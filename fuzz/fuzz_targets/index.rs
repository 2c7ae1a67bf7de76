//! Any bytes as an index, or as sentence-transformers' modules.json: an error, or names that stay in their folder.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use llmc::io::{index, side_files};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = index::parse(Path::new("model.safetensors.index.json"), bytes) {
        index.shards().into_iter().for_each(stays);
    }
    if let Ok(folders) = side_files::parse_modules(Path::new("modules.json"), bytes) {
        folders.iter().for_each(|folder| stays(folder));
    }
});

fn stays(name: &str) {
    let components: Vec<_> = Path::new(name).components().collect();
    assert!(matches!(components.as_slice(), [Component::Normal(_)]), "{name:?} leaves its folder");
}
