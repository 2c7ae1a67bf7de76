//! The command, on a model: against what lm-evaluation-harness says of the same model and rows
//! (`tests/clients/lm_eval_check.py --record`), whatever runs together; and what it says of wrong arguments.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use super::fixture;

/// Relative: both sum f32 logits, in other orders.
const TOLERANCE: f64 = 1e-5;

fn llmc(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("llmc").unwrap();
    command.args(["eval", "tasks"]).args(arguments);
    command
}

/// The result, and the samples.
fn ask(task: &str, arguments: &[&str]) -> (Value, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("samples.jsonl");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llama");
    let data = fixture("");
    let out = llmc(&[model.to_str().unwrap(), "--tasks", task, "--data", data.to_str().unwrap(), "--json"])
        .args(["--activations", "f32", "--samples", samples.to_str().unwrap()])
        .args(arguments)
        .assert()
        .success();
    let lines = std::fs::read_to_string(samples).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (serde_json::from_slice(&out.get_output().stdout).unwrap(), lines)
}

fn check(expected: &Value, batch: &str) {
    let (task, fewshot) = (expected["task"].as_str().unwrap(), expected["fewshot"].to_string());
    let (result, samples) = ask(task, &["--fewshot", &fewshot, "--batch", batch]);
    let rows = expected["rows"].as_array().unwrap();
    assert_eq!(samples.len(), rows.len());
    for (sample, row) in samples.iter().zip(rows) {
        if let Some(written) = sample.get("written") {
            assert_eq!(*written, row[0], "{task}, {fewshot} examples, {batch} tokens");
            continue;
        }
        let (choices, row) = (sample["choices"].as_array().unwrap(), row.as_array().unwrap());
        assert_eq!(choices.len(), row.len(), "{task}");
        for (choice, said) in choices.iter().zip(row) {
            let (ours, theirs) = (choice["loglikelihood"].as_f64().unwrap(), said[0].as_f64().unwrap());
            assert!(
                (ours - theirs).abs() <= TOLERANCE * theirs.abs(),
                "{task}, {batch} tokens: {ours} for {theirs}"
            );
            assert_eq!(choice["greedy"], said[1]);
        }
    }
    for (name, value) in expected["metrics"].as_object().unwrap() {
        let ours = result["tasks"][0]["metrics"][name]["value"].as_f64().unwrap();
        assert!((ours - value.as_f64().unwrap()).abs() < 1e-6, "{task} {name}: {ours} for {value}");
    }
}

#[test]
fn a_model_answers_as_it_does_in_the_harness() {
    let answers = std::fs::read_to_string(fixture("answers.jsonl")).unwrap();
    assert!(answers.lines().count() >= 7, "{answers}");
    for line in answers.lines() {
        let expected: Value = serde_json::from_str(line).unwrap();
        for batch in ["700", "100000"] {
            check(&expected, batch);
        }
    }
}

#[test]
fn results_are_a_table() {
    let data = fixture("");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llama");
    let arguments = [
        model.to_str().unwrap(),
        "--tasks",
        "piqa,arc_easy,piqa",
        "--data",
        data.to_str().unwrap(),
        "--limit",
        "2",
    ];
    let out = llmc(&arguments).assert().success();
    let text = String::from_utf8(out.get_output().stdout.clone()).unwrap();
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words.len(), 7, "two tasks, each once, of three metrics:\n{text}");
    assert_eq!(words[0], ["task", "n", "metric", "value"]);
    assert_eq!(words[1][..3], ["piqa", "2", "acc"]);
    assert_eq!(words[1][4], "±");
}

#[test]
fn tasks_are_listed() {
    let out = llmc(&["--list", "--json"]).assert().success();
    let list: Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 12);
    assert_eq!(list[5]["parts"].as_array().unwrap().len(), 57);
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let empty = tempfile::tempdir().unwrap();
    let data = empty.path().to_str().unwrap();
    for (arguments, code, expected) in [
        (&["no-model", "--tasks", "helaswag"][..], 2, "no task is called \"helaswag\""),
        (&["no-model", "--tasks", "gsm8k", "--data", data][..], 1, "hf download openai/gsm8k"),
        (&["no-model", "--tasks", "own.toml"][..], 1, "own.toml"),
        (&["no-model"][..], 2, "--tasks"),
    ] {
        let out = llmc(arguments).assert().code(code);
        let said = String::from_utf8(out.get_output().stderr.clone()).unwrap();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
