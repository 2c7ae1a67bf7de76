//! Helpers of the integration tests: running the binary, comparing folders, making checkpoints.
#![allow(dead_code, clippy::unwrap_used)]

mod numbers;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use llmc::numerics::random::SplitMix64;

#[allow(unused_imports)] // No test uses all of them.
pub use numbers::{largest, normal, signed, uniform};

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

/// Runs it, expects success, returns stdout as JSON.
pub fn json(folder: &Path, line: &str) -> serde_json::Value {
    serde_json::from_str(&ok(folder, line)).unwrap()
}

/// Runs it, expects an exit code, returns stderr.
pub fn fails(folder: &Path, line: &str, code: i32) -> String {
    let output = run(folder, line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "llmc {line}\n{stderr}");
    assert!(stderr.contains("hint: "), "no hint: {stderr}");
    stderr
}

/// The folders in a folder of the fixtures, sorted.
pub fn folders(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Runs it until its `count`th call of a fault point of the pipeline, which raises the signal. Expects the exit code of this
/// signal, so that the test fails if the run was not stopped.
pub fn interrupted_at(folder: &Path, line: &str, point: &str, count: usize, signal: Signal) -> Output {
    let (number, code) = match signal {
        Signal::Kill => (9, None),
        Signal::Interrupt => (2, Some(130)),
    };
    let mut command = llmc(folder);
    command.args(line.split_whitespace()).env("LLMC_FAULT", format!("{point}/{count}/{number}"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), code, "not stopped at {point} {count}: llmc {line}\n{stderr}");
    output
}

/// A signal that stops a run.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Kill,
    Interrupt,
}

/// Runs a shell script in a folder, with the right to mount file systems. Prints a line and returns false if the system does
/// not allow that.
pub fn with_mounts(folder: &Path, script: &str) -> bool {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script]).current_dir(folder);
        command.status().is_ok_and(|status| status.success())
    };
    if !unshare("mkdir probe; mount -t tmpfs none probe; umount probe; rmdir probe") {
        let _ = std::fs::remove_dir(folder.join("probe"));
        eprintln!("SKIPPED: no user namespaces here to mount a small disk in");
        return false;
    }
    assert!(unshare(script), "the script failed: {script}");
    true
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

/// Values that look like a trained model's weights, with a few outliers.
pub fn weights(seed: u64, count: usize) -> Vec<f32> {
    let values = normal(1, count, seed) * 0.02;
    values.into_iter().enumerate().map(|(i, x)| if i % 997 == 0 { 10.0 * x } else { x }).collect()
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

/// A folder with some text beside which outputs go.
pub fn text_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..4000).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    folder
}
