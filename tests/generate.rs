//! `llmc generate` on a tiny model of random weights: what it says, where it says it, and what ends it.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{fails, fixture, llmc};
use serde_json::Value;

/// Runs `generate` on tiny-llama.
fn generate(arguments: &[&str]) -> Output {
    llmc(Path::new(".")).arg("generate").arg(fixture("tiny-llama")).args(arguments).output().unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = generate(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(&[arguments, &["--json"]].concat())).unwrap()
}

/// The expected text is transformers' continuation: `fixtures/generate_continuations.py`.
#[test]
fn greedy_text_is_that_of_transformers() {
    let exact = ["-n", "24", "--activations", "f32"];
    let plain = text(&[&exact[..], &["-p", "The capital of"]].concat());
    assert_eq!(plain, "ver".repeat(21) + "\0\0\0\n");
    let chat = json(&[&exact[..], &["--chat", "-p", "Why?"]].concat());
    assert_eq!(
        chat["text"],
        "\n\n+++++\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}0adadadadadadadadadad"
    );
    assert_eq!((&chat["tokens"], &chat["finish_reason"]), (&24.into(), &"length".into()));
}

#[test]
fn a_seed_repeats_and_another_does_not() {
    let run = |seed: &str| {
        text(&[
            "-p",
            "a",
            "-n",
            "16",
            "--temperature",
            "1",
            "--top-p",
            "0.95",
            "--top-k",
            "50",
            "--seed",
            seed,
        ])
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn stop_texts_end_it() {
    let stopped = json(&["-p", "The capital of", "-n", "24", "--stop", "erver", "--stop", "never"]);
    assert_eq!((&stopped["text"], &stopped["finish_reason"]), (&"v".into(), &"stop".into()));
}

#[test]
fn figures_are_on_stderr_unless_quiet() {
    let output = generate(&["-p", "a", "-n", "4"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("generated: 4 tokens (") && stderr.contains("--max-tokens"), "{stderr}");
    let quiet = generate(&["-p", "a", "-n", "4", "--quiet"]);
    assert_eq!((quiet.stderr.len(), quiet.stdout), (0, output.stdout));
}

#[test]
fn a_prompt_may_come_from_standard_input() {
    let piped = |bytes: &[u8]| {
        let mut command = llmc(Path::new("."));
        command.arg("generate").arg(fixture("tiny-llama")).args(["-p", "-", "-n", "4"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(
        String::from_utf8(piped(b"The capital of").stdout).unwrap(),
        text(&["-p", "The capital of", "-n", "4"])
    );
    let wrong = piped(b"ab\xff");
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("offset 2"));
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn mistakes_get_a_hint() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama").display().to_string();
    let empty = generate(&["-p", ""]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8(empty.stderr).unwrap().contains("the prompt is empty"));
    let top_p = fails(here.path(), &format!("generate {model} -p a --temperature 1 --top-p 2"), 2);
    assert!(top_p.contains("top-p 2"), "{top_p}");
    let long = "a b ".repeat(4000);
    let long = generate(&["-p", &long]);
    assert_eq!(long.status.code(), Some(2));
    assert!(String::from_utf8(long.stderr).unwrap().contains("the model's context"));
    for device in ["gpu", "cuda:x", "cuda:"] {
        let wrong = generate(&["-p", "a", "--device", device]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(
            String::from_utf8(wrong.stderr).unwrap().contains("expected cpu, candle, cuda or cuda:NUMBER")
        );
    }
    #[cfg(not(feature = "candle-cuda"))]
    {
        let unbuilt = fails(here.path(), &format!("generate {model} -p a --device cuda"), 1);
        assert!(unbuilt.contains("without feature `candle-cuda`"), "{unbuilt}");
    }
    assert_eq!(text(&["-p", "a", "-n", "4", "--device", "cpu"]), text(&["-p", "a", "-n", "4"]));
    assert_eq!(generate(&["-p", "a", "--seed", "1"]).status.code(), Some(2), "a seed without a temperature");
    assert_eq!(
        generate(&["-p", "a", "--system", "x"]).status.code(),
        Some(2),
        "a system message without a chat"
    );
}
