//! Trusted no further than it is checked: settings of a wrong type, models that contradict their config.json, side files that
//! lead elsewhere, statistics and results that are not what llmc wrote.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{contents, fails, fixture, ok, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a fixture, in `m/` of a folder of its own.
fn model(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(name), &folder.path().join("m"));
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    contents(from).into_iter().for_each(|(name, bytes)| std::fs::write(to.join(name), bytes).unwrap());
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn set(folder: &Path, key: &str, value: Value) {
    let mut changed = config(folder);
    changed[key] = value;
    std::fs::write(folder.join("config.json"), changed.to_string()).unwrap();
}

/// A setting of a wrong type is an error before any work, for every format; it names the file, the key, and both values.
#[test]
fn mistyped_settings_are_errors_of_config_json() {
    let folder = model("tiny-llama");
    let here = folder.path();
    let original = config(&here.join("m"));
    for (key, value, expected) in [
        ("rope_theta", json!("500"), "rope_theta: expected a number, found \"500\""),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps: expected a number of at least 0, found -1.0"),
        ("hidden_size", json!("64"), "hidden_size: expected a whole number"),
        ("num_attention_heads", json!(0), "num_attention_heads: expected a positive number, found 0"),
        ("num_hidden_layers", json!(true), "num_hidden_layers: expected a whole number, found true"),
        ("intermediate_size", json!("1"), "intermediate_size: expected a whole number"),
        ("tie_word_embeddings", json!(1), "tie_word_embeddings: expected true or false, found 1"),
    ] {
        set(&here.join("m"), key, value);
        for line in [
            "quantize m --scheme w8a16 -o out",
            "quantize m --scheme q8_0 -o out.gguf",
            "convert m --format dense -o out",
        ] {
            let said = fails(here, line, 1);
            assert!(said.contains(&format!("error: m/config.json: {expected}")), "{line}: {said}");
        }
        assert_eq!(std::fs::read_dir(here).unwrap().count(), 1, "nothing is written");
        std::fs::write(here.join("m/config.json"), original.to_string()).unwrap();
    }
    ok(here, "quantize m --scheme w8a16 -o out");
}

/// Widths that config.json gives are those of the weights, for folders as for GGUF.
#[test]
fn widths_are_compared_before_the_work() {
    let folder = model("tiny-llama");
    let here = folder.path();
    let original = config(&here.join("m"));
    for (key, named) in [
        ("intermediate_size", "mlp.gate_proj.weight"),
        ("head_dim", "self_attn.q_proj.weight"),
        ("num_key_value_heads", "self_attn.k_proj.weight"),
        ("vocab_size", "embed_tokens.weight"),
    ] {
        let found = original.get(key).and_then(Value::as_u64).unwrap_or(16);
        set(&here.join("m"), key, json!(if key == "num_key_value_heads" { 5 } else { found * 2 }));
        for line in ["quantize m --scheme w8a16 -o out", "quantize m --scheme q8_0 -o out.gguf"] {
            let said = fails(here, line, 1);
            assert!(said.contains("error: m: ") && said.contains(named), "{key}: {said}");
        }
        std::fs::write(here.join("m/config.json"), original.to_string()).unwrap();
    }
    // A layer too many: llama.cpp refuses the GGUF, others leave it out.
    set(&here.join("m"), "num_hidden_layers", json!(1));
    let said = fails(here, "quantize m --scheme q8_0 -o out.gguf", 1);
    assert!(said.contains("config.json describes a model of 1 layers"), "{said}");
}

#[cfg(unix)]
fn link(target: &str, place: PathBuf) {
    std::os::unix::fs::symlink(target, place).unwrap();
}

/// A link out of the model's folder is not copied into an output, and said so; the hub's cache, all links, goes on working.
#[cfg(unix)]
#[test]
fn links_out_of_the_model_do_not_get_into_outputs() {
    let folder = model("tiny-llama");
    let here = folder.path();
    std::fs::write(here.join("secret"), "root:x:0").unwrap();
    link("../secret", here.join("m/vocab_x.txt"));
    link("../secret", here.join("m/chat_template.jinja"));
    link("tokenizer.json", here.join("m/tokenizer_copy.json"));
    for (out, line) in
        [("out", "quantize m --scheme w8a16 -o out"), ("out.gguf", "quantize m --scheme q8_0 -o out.gguf")]
    {
        let output = run(here, line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("m/chat_template.jinja leads out of the model's folder"), "{said}");
        for (name, content) in contents(&here.join(out)) {
            assert!(!content.windows(8).any(|bytes| bytes == b"root:x:0"), "{out}: {name}");
        }
    }
    let out = contents(&here.join("out"));
    assert!(!out.contains_key("vocab_x.txt") && !out.contains_key("chat_template.jinja"));
    assert_eq!(out["tokenizer_copy.json"], out["tokenizer.json"]);
    let repository = here.join("hub/models--org--name");
    copy(&fixture("tiny-llama"), &repository.join("blobs"));
    let snapshot = repository.join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    for name in contents(&fixture("tiny-llama")).into_keys() {
        link(&format!("../../blobs/{name}"), snapshot.join(name));
    }
    ok(here, "quantize hub/models--org--name/snapshots/abc --scheme w8a16 -o cached");
    let cached = contents(&here.join("cached"));
    assert_eq!(cached["tokenizer.json"], out["tokenizer.json"]);
}

/// Results of evaluations replace results, and nothing else.
#[test]
fn evaluations_do_not_overwrite_the_model() {
    let folder = model("tiny-llama");
    let here = folder.path();
    let before = contents(&here.join("m"));
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let said = fails(here, &format!("eval logits m --tokens 1,2,3 -o m/{name}"), 2);
        assert!(said.contains(name) && said.contains("not replaced"), "{said}");
    }
    assert!(before == contents(&here.join("m")));
    ok(here, "eval logits m --tokens 1,2,3 -o l.safetensors");
    ok(here, "eval logits m --tokens 1,2 -o l.safetensors");
}

/// A changed number in statistics is found by their checksums, and the file is named.
#[test]
fn changed_statistics_are_refused() {
    let folder = model("tiny-llama");
    let here = folder.path();
    let text = fixture("tokenizer_corpus.txt").display().to_string();
    ok(here, &format!("calibrate m --data {text} --samples 4 --seq-len 32 -o stats"));
    let line = "quantize m --scheme w4a16 --group-size 32 --method mse --stats stats -o out --overwrite";
    ok(here, line);
    for name in ["block-00001.safetensors", "index.json"] {
        let path = here.join("stats").join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut content = whole.clone();
        let at = content.len() - 20;
        content[at] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let said = fails(here, line, 1);
        assert!(said.contains(name), "{name}: {said}");
        std::fs::write(&path, whole).unwrap();
    }
    std::fs::remove_file(here.join("stats/checksums.b3")).unwrap();
    assert!(fails(here, line, 1).contains("checksums.b3"));
}
