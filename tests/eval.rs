//! `llmc eval` as a user meets it: figures that transformers computed from the same files, the base's cache, and what goes
//! wrong.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{fails, fixture, json, ok, run};
use safetensors::SafeTensors;
use serde_json::Value;

fn model() -> String {
    fixture("tiny-llama").display().to_string()
}

fn text() -> String {
    fixture("tokenizer_corpus.txt").display().to_string()
}

fn perplexity(folder: &Path, flags: &str) -> Value {
    let line = format!("eval perplexity {} --data {} {flags} --json", model(), text());
    json(folder, &line)
}

fn close(found: &Value, expected: f64, relative: f64) {
    let found = found.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < relative, "expected {expected}, found {found}");
}

/// A copy of the fixture whose weights are rounded to 4 bits, in `folder`.
fn rounded(folder: &Path) -> &'static str {
    ok(folder, &format!("quantize {} --scheme w4a16 --group-size 32 -o w4", model()));
    "w4"
}

fn cached(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Computed by transformers 5.23 in f32 from the same model and text; the guide's own code for the last two, but with each
/// window weighted by its targets.
#[test]
fn perplexity_is_that_of_transformers() {
    let here = tempfile::tempdir().unwrap();
    let found = perplexity(here.path(), "--activations f32 --ctx 64 --chunks 8");
    close(&found["perplexity"]["value"], 114_956.930_866, 1e-4);
    close(&found["perplexity"]["error"], 27_529.091_781, 1e-3);
    assert_eq!(
        (&found["targets"], &found["windows"], &found["tokens"]),
        (&248.into(), &8.into(), &512.into())
    );
    assert_eq!(found["protocol"]["name"], "chunks");
    assert!(found["against"].is_null());
    for (flags, targets, expected) in [("", 1611, 143_081.557_823), ("--stride 30", 1627, 96_881.723_317)] {
        let flags = format!("--activations f32 --protocol hf --ctx 100 {flags} --batch 3");
        let found = perplexity(here.path(), &flags);
        close(&found["perplexity"]["value"], expected, 1e-4);
        assert_eq!(found["targets"], targets);
        assert_eq!(found["protocol"]["name"], "hf");
    }
}

#[test]
fn a_model_beside_its_base_and_the_base_kept() {
    let here = tempfile::tempdir().unwrap();
    let line = format!(
        "eval perplexity {} --data {} --ctx 64 --chunks 6 --against {} --base-cache cache --json",
        rounded(here.path()),
        text(),
        model()
    );
    let first = json(here.path(), &line);
    assert!(first["against"]["kld"]["mean"]["value"].as_f64().unwrap() > 1e-4);
    assert_eq!(first["against"]["kld"]["percentiles"].as_array().unwrap().len(), 8);
    assert_eq!(first["base"]["precision"], "16bit");
    let file = cached(here.path());
    assert_eq!(file.len(), 1, "{file:?}");
    let bytes = fs::read(&file[0]).unwrap();

    let again = |warns: bool| {
        let output = run(here.path(), &line);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["against"], first["against"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("made again"), warns, "{stderr}");
        assert_eq!(fs::read(&file[0]).unwrap(), bytes);
        assert_eq!(cached(here.path()), file);
    };
    again(false);
    fs::write(&file[0], &bytes[..bytes.len() - 100]).unwrap();
    again(true);
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    fs::write(&file[0], damaged).unwrap();
    again(true);
}

#[test]
fn other_settings_never_find_the_base_of_these() {
    let here = tempfile::tempdir().unwrap();
    let other = here.path().join("other.txt");
    fs::write(&other, fs::read_to_string(text()).unwrap().repeat(2).split_off(7)).unwrap();
    let all = [
        "--ctx 64 --chunks 2",
        "--ctx 64 --chunks 3",
        "--ctx 60 --chunks 2",
        "--ctx 64 --chunks 2 --protocol hf",
        "--ctx 64 --chunks 2 --activations f32",
        "--ctx 64 --chunks 2 --base-precision f32",
        "--ctx 64 --chunks 2 --data other.txt",
    ];
    for (index, flags) in all.iter().enumerate() {
        let data = if flags.contains("--data") { String::new() } else { format!("--data {}", text()) };
        let line = format!("eval perplexity {0} --against {0} --base-cache cache {data} {flags}", model());
        ok(here.path(), &line);
        assert_eq!(cached(here.path()).len(), index + 1, "{flags}");
    }
    let line = format!("eval perplexity {0} --against {0} --no-base-cache --data {1}", model(), text());
    ok(here.path(), &line);
    assert_eq!(cached(here.path()).len(), all.len());
}

#[test]
fn a_model_beside_itself() {
    let here = tempfile::tempdir().unwrap();
    let flags = format!("--ctx 64 --chunks 6 --against {} --no-base-cache", model());
    let exact = perplexity(here.path(), &format!("{flags} --base-precision f32"));
    assert_eq!(exact["against"]["kld"]["maximum"], 0.0);
    assert_eq!(exact["against"]["same_top"]["value"], 1.0);
    assert_eq!(exact["against"]["ratio"]["value"], 1.0);
    let rounded = perplexity(here.path(), &flags);
    assert!(rounded["against"]["kld"]["mean"]["value"].as_f64().unwrap().abs() < 1e-3);
    let line = format!("eval perplexity {} --data {} {flags}", model(), text());
    let shown = ok(here.path(), &line);
    for expected in
        ["6 chunks of 64 tokens", "KLD, nats", "99.9 %", "same top token", "as llama.cpp holds it"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn scores_of_each_position() {
    let here = tempfile::tempdir().unwrap();
    let flags =
        format!("--ctx 64 --chunks 3 --no-base-cache --per-position p.safetensors --against {}", model());
    let found = perplexity(here.path(), &flags);
    let bytes = fs::read(here.path().join("p.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort();
    assert_eq!(names, ["delta_p", "kld", "nll", "position", "same_top", "token"]);
    let nll: Vec<f64> = file.tensor("nll").unwrap().data().chunks(4).map(|b| f64::from(float(b))).collect();
    assert_eq!(nll.len(), 93);
    close(&found["nll"]["value"], nll.iter().sum::<f64>() / 93.0, 1e-6);
}

#[test]
fn scores_of_each_position_need_no_base() {
    let here = tempfile::tempdir().unwrap();
    perplexity(here.path(), "--ctx 64 --chunks 2 --per-position p.safetensors");
    let bytes = fs::read(here.path().join("p.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort();
    assert_eq!(names, ["nll", "position", "token"]);
}

fn float(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn logits_are_those_of_transformers() {
    let here = tempfile::tempdir().unwrap();
    let folder = fixture("models/llama");
    let golden = fs::read(folder.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let ids = golden.tensor("tokens").unwrap();
    let ids: Vec<String> = ids.data().chunks(8).map(|id| id[0].to_string()).collect();
    let line = format!(
        "eval logits {} --tokens {} -o logits.safetensors --activations f32",
        folder.display(),
        ids.join(",")
    );
    assert!(ok(here.path(), &line).contains("logits [25, 91]"));
    let bytes = fs::read(here.path().join("logits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (found, expected) = (file.tensor("logits").unwrap(), golden.tensor("logits").unwrap());
    assert_eq!(found.shape(), expected.shape());
    for (found, expected) in found.data().chunks(4).zip(expected.data().chunks(4)) {
        assert!((float(found) - float(expected)).abs() < 1e-4);
    }
    assert_eq!(file.tensor("tokens").unwrap().shape(), [25]);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("short.txt"), "Too short.").unwrap();
    fs::write(here.path().join("latin1.txt"), b"caf\xe9 ".repeat(400)).unwrap();
    fs::write(here.path().join("empty.txt"), "").unwrap();
    let (model, text) = (model(), text());
    let other = fixture("models/llama").display().to_string();
    let cases = [
        (format!("{model} --data short.txt"), 2, "less than one chunk of 512"),
        (format!("{model} --data {text} --ctx 513"), 2, "beyond the model's limit of 512"),
        (format!("{model} --data {text} --protocol hf"), 2, "2048 tokens is beyond the model's limit"),
        (format!("{model} --data {text} --ctx 2"), 2, "no target"),
        (format!("{model} --data {text} --stride 4"), 2, "no --stride"),
        (format!("{model} --data {text} --protocol hf --ctx 64 --stride 65"), 2, "stride of 65"),
        (format!("{model} --data {text} --chunks 0"), 2, "at least 1"),
        (format!("{model} --data latin1.txt"), 1, "UTF-8"),
        (format!("{model} --data empty.txt"), 1, "expected text"),
        (format!("{model} --data no/such.txt"), 1, "no/such.txt"),
        (format!("{other} --data {text}"), 1, "tokenizer"),
        (format!("{other} --data {text} --against {model}"), 1, "91 embedding rows"),
        (format!("{model} --data {text} --ctx 64 --against {other} --no-base-cache"), 1, "the base's has 91"),
        (format!("{model} --data {text} --per-position no/folder/x.safetensors"), 1, "no/folder"),
    ];
    for (line, code, expected) in cases {
        let stderr = fails(here.path(), &format!("eval perplexity {line}"), code);
        assert!(stderr.contains(expected), "{line}: {stderr}");
    }
    for (line, expected) in [("--tokens 1,512", "no token 512"), ("--tokens=", "invalid")] {
        let output = run(here.path(), &format!("eval logits {model} {line} -o x.safetensors"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(expected), "{line}: {stderr}");
    }
    assert!(!here.path().join("x.safetensors").exists());
}

#[test]
fn more_chunks_than_there_are_is_a_warning() {
    let here = tempfile::tempdir().unwrap();
    let output =
        run(here.path(), &format!("eval perplexity {} --data {} --chunks 99 --json", model(), text()));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["windows"], 3);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("has 3 chunks, not 99"), "{stderr}");
}
