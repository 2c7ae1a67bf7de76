//! What the outside tests share: running the binary, comparing folders, making checkpoints.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A fixture's path.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The binary, in a folder of its own.
pub fn llmc(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.current_dir(folder);
    command
}

/// Runs a command line of the binary; words are split at spaces.
pub fn run(folder: &Path, line: &str) -> Output {
    llmc(folder).args(line.split_whitespace()).output().unwrap()
}

/// Runs it, expects success, returns stdout.
pub fn ok(folder: &Path, line: &str) -> String {
    let output = run(folder, line);
    assert!(output.status.success(), "llmc {line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it, expects an exit code, returns stderr.
pub fn fails(folder: &Path, line: &str, code: i32) -> String {
    let output = run(folder, line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "llmc {line}\n{stderr}");
    assert!(stderr.contains("hint: "), "no hint: {stderr}");
    stderr
}

/// Every file under a path: name → content.
pub fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    if path.is_file() {
        return BTreeMap::from([(String::new(), std::fs::read(path).unwrap())]);
    }
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        for (inner, content) in contents(&entry.path()) {
            let name = if inner.is_empty() { name.clone() } else { format!("{name}/{inner}") };
            all.insert(name, content);
        }
    }
    all
}

/// Panics with the names of the files that differ.
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let differ: Vec<&String> =
        a.iter().filter(|(name, content)| b[*name] != **content).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "these files differ: {differ:?}");
}

/// Deterministic values that look like weights: a sum of uniforms, a few outliers.
pub fn weights(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count)
        .map(|i| (0..4).map(|_| uniform()).sum::<f32>() * if i % 997 == 0 { 0.5 } else { 0.05 })
        .collect()
}

/// Writes a bf16 `.safetensors` file of named matrices.
pub fn write_checkpoint(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: HashMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, _, values)| {
            (name.as_str(), values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, _)| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::BF16,
            shape.clone(),
            &bytes[name.as_str()],
        );
        (name.as_str(), view.unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}
