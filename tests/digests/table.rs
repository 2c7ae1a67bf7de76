//! The cases: the library's lists of methods, schemes and formats, and all fixtures, so that a new one needs a digest.

mod calibrated;
mod free;
mod measured;

use std::collections::HashSet;

use llmc::export::FORMATS;
use llmc::numerics::presets::PRESETS;
use llmc::registry::{METHODS, pruning, shaping};

use crate::case::Case;

/// Every case. Names are unique within a level.
pub fn all() -> Vec<Case> {
    let cases = [free::cases(), calibrated::cases(), measured::cases()].concat();
    let mut names = HashSet::new();
    for case in &cases {
        assert!(names.insert((case.level, &case.name)), "two cases are called {}", case.name);
    }
    cases
}

/// The fixtures with a tokenizer, the smallest first.
const MODELS: &[&str] = &["tiny-qwen2-sharded", "tiny-qwen3-moe", "tiny-llama"];

/// The methods but for those that prune, which have cases of their own.
fn methods() -> impl Iterator<Item = &'static str> {
    let pruning = [pruning(), shaping()].concat();
    METHODS.iter().map(|method| method.name).filter(move |name| !pruning.contains(name))
}

fn schemes() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// True for a scheme of llama.cpp's blocks.
fn is_block(scheme: &str) -> bool {
    scheme.starts_with('q') || scheme.starts_with("iq")
}

fn formats() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|format| format.name())
}

/// Names of the folders under a folder of fixtures.
pub fn folders(parent: &str) -> Vec<String> {
    let folders = crate::common::folders(parent);
    folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Flags as a part of a name.
fn slug(flags: &str) -> String {
    flags.replace("fixtures/", "").replace("--", "").replace([' ', '/', '*'], "_")
}
