//! Stand-ins for the models and texts that the pages name, and the commands that are not run.

use std::fs;
use std::path::Path;

use super::{common, root};

/// Parts of commands that are not run, and why.
pub const NOT_RUN: &[(&str, &str)] = &[
    ("cargo install", "builds in release mode"),
    ("pip ", "needs PyPI"),
    ("docker ", "needs a daemon"),
    ("hf download", "needs the hub"),
    ("vllm serve", "another engine"),
    ("llama-server", "another engine"),
    ("kernels/", "compiles CUDA"),
    ("llmc bench kernels", "needs a GPU"),
    ("--device cuda", "needs a GPU"),
    ("llmc eval embeddings", "no encoder with a tokenizer is shipped"),
];

/// Flags that make commands small enough for a test, by what they run.
const SMALLER: &[(&[&str], &str)] = &[
    (&["llmc quantize", "--data"], "--samples 2 --seq-len 32"),
    (&["llmc prune", "--data"], "--samples 2 --seq-len 32"),
    (&["llmc run", "--data"], "--samples 2 --seq-len 32"),
    (&["llmc calibrate"], "--samples 2 --seq-len 32"),
    (&["llmc eval perplexity"], "--ctx 64 --chunks 2"),
    (&["llmc eval tasks", "--tasks"], "--limit 1"),
    (&["llmc generate"], "-n 4"),
    (&["llmc bench"], "--prefill 8 --decode 2 --batch 1 --runs 1"),
];

/// Models that the pages name: all are the shipped one.
const MODELS: &[&str] = &["models/qwen", "models/smollm2", "models/gemma", "model"];
/// A mixture of experts.
const MIXTURE: &str = "models/mixtral";
/// An encoder.
const ENCODER: &str = "minilm";
/// A GGUF file.
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Ids of the hub, which are found in a cache.
const IDS: &[&str] = &["org/name", "HuggingFaceTB/SmolLM2-135M-Instruct"];
/// Texts that they name.
const TEXTS: &[&str] = &["wiki.txt", "wiki.test.txt"];
const TABLES: &[&str] = &["corpus.jsonl", "chats.jsonl"];

pub fn not_run(line: &str) -> Option<&'static str> {
    NOT_RUN.iter().find(|(part, _)| line.contains(part)).map(|(_, reason)| *reason)
}

/// A command without the comment behind it.
pub fn without_comment(line: &str) -> &str {
    line.split_once(" #").map_or(line, |(command, _)| command).trim_end()
}

/// A command with flags that make it small, before a redirection.
pub fn smaller(line: &str) -> String {
    let fits = |parts: &[&str]| parts.iter().all(|part| line.contains(part));
    let flags = SMALLER.iter().find(|(parts, _)| fits(parts)).map_or("", |(_, flags)| flags);
    let (command, rest) =
        line.split_once(" > ").map_or((line, String::new()), |(c, file)| (c, format!(" > {file}")));
    format!("{command} {flags}{rest}")
}

/// Puts the stand-ins into a folder.
pub fn prepare(folder: &Path) {
    std::os::unix::fs::symlink(root().join("fixtures"), folder.join("fixtures")).unwrap();
    std::os::unix::fs::symlink(root().join("fixtures/tasks"), folder.join("data")).unwrap();
    fs::create_dir(folder.join("target")).unwrap();
    let model = common::contents(&common::fixture("tiny-llama"));
    let put_model = |path: &Path| {
        fs::create_dir_all(path).unwrap();
        model.iter().for_each(|(name, content)| fs::write(path.join(name), content).unwrap());
    };
    MODELS.iter().for_each(|name| put_model(&folder.join(name)));
    common::ok(folder, &format!("quantize model --scheme q4_1 -o {GGUF}"));
    fs::create_dir_all(folder.join(MIXTURE)).unwrap();
    for (name, content) in common::contents(&common::fixture("tiny-qwen3-moe")) {
        fs::write(folder.join(MIXTURE).join(name), content).unwrap();
    }
    fs::create_dir(folder.join(ENCODER)).unwrap();
    for (name, content) in common::contents(&common::fixture("models/bert")) {
        fs::write(folder.join(ENCODER).join(name), content).unwrap();
    }
    for id in IDS {
        let cached = folder.join("hub/hub").join(format!("models--{}", id.replace('/', "--")));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        put_model(&cached.join("snapshots").join(commit));
        fs::create_dir_all(cached.join("refs")).unwrap();
        fs::write(cached.join("refs/main"), commit).unwrap();
    }
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    TEXTS.iter().for_each(|name| fs::write(folder.join(name), &text).unwrap());
    let rows: Vec<String> =
        text.split("\n\n").map(|text| serde_json::json!({ "text": text }).to_string()).collect();
    TABLES.iter().for_each(|name| fs::write(folder.join(name), rows.join("\n")).unwrap());
}
