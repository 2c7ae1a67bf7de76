//! The words around a run: before it its method and needs, behind it what it lost and the next commands; and a Ctrl-C.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Signal, assert_same, contents, fails, interrupted_at, json, llmc, ok, run};
use crate::model::Model;

/// The stderr of a successful run.
fn told(folder: &std::path::Path, line: &str) -> Vec<String> {
    let output = run(folder, line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{line}: {stderr}");
    stderr.lines().map(str::to_owned).collect()
}

/// The command behind a word in front.
fn command(lines: &[String], word: &str) -> Option<String> {
    lines.iter().find_map(|line| Some(line.trim().strip_prefix(word)?.trim().to_owned()))
}

#[test]
fn few_bits_without_data_are_said_to_lose_much_and_the_better_command_works() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let lines = told(here, "quantize model --bits 4 --group-size 16 -o out");
    let before = "note: int4 g16 symmetric by mse without data: ";
    assert!(lines[0].starts_with(before) && lines[0].contains(" in out; memory about "), "{lines:?}");
    let loss = lines.iter().any(|line| line.starts_with("note: rounding to ") && line.contains("loses much"));
    assert!(loss && lines.len() <= 8, "{lines:?}");
    assert_eq!(command(&lines, "serve:").unwrap(), "vllm serve out");
    assert_eq!(command(&lines, "upload:").unwrap(), "hf upload ORG/out out");
    let measure = "llmc eval perplexity out --against model --data TEXT.txt";
    assert_eq!(command(&lines, "measure:").unwrap(), measure);
    let line = measure.replace("TEXT.txt", "text.txt --ctx 64 --chunks 1 --no-base-cache");
    ok(here, line.strip_prefix("llmc ").unwrap());

    let better = command(&lines, "lose less:").unwrap();
    assert_eq!(better, "llmc quantize model --bits 4 --group-size 16 -o out --data self --overwrite");
    let line = format!("{} --samples 2 --seq-len 16", better.strip_prefix("llmc ").unwrap());
    let lines = told(here, &line);
    assert!(here.join("out/calibration.json").exists());
    let before = "note: int4 g16 symmetric by gptq, on 2 sequences of 16 tokens of self: ";
    assert!(lines[0].starts_with(before), "{lines:?}");
    assert_eq!(command(&lines, "lose less:"), None);
    assert!(!lines.iter().any(|line| line.contains("loses much")), "{lines:?}");
}

#[test]
fn blocks_of_a_gguf_gain_by_data_too_and_more_bits_need_none() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let lines = told(here, "quantize model --scheme q4_0 -o a.gguf");
    assert_eq!(command(&lines, "serve:").unwrap(), "llama-server -m a.gguf");
    assert_eq!(command(&lines, "upload:").unwrap(), "hf upload ORG/a a.gguf");
    let better = "llmc quantize model --scheme q4_0 -o a.gguf --data self --overwrite";
    assert_eq!(command(&lines, "lose less:").unwrap(), better);
    let lines = told(here, "quantize model --bits 8 -o eight");
    assert!(command(&lines, "lose less:").is_none() && command(&lines, "serve:").is_some(), "{lines:?}");
    // Few engines have kernels for six bits, and none is named.
    let lines = told(here, "quantize model --bits 6 --group-size 16 -o six");
    assert_eq!(command(&lines, "serve:"), None);
    assert!(told(here, "quantize model --bits 4 -o quiet --quiet").is_empty());
    let machine = told(here, "quantize model --bits 4 -o machine --json");
    assert!(command(&machine, "serve:").is_none(), "{machine:?}");
}

#[test]
fn four_bits_have_the_same_groups_with_data_and_without() {
    let folder = Model::of("tiny-llama").folder();
    let stored = |flags: &str| -> Vec<Value> {
        let plan = json(folder.path(), &format!("plan model --bits 4 {flags} --json"));
        let tensors = plan["tensors"].as_array().unwrap().iter();
        tensors.map(|tensor| tensor["stored"].clone()).collect()
    };
    let without = stored("");
    assert!(without.iter().any(|stored| stored == "int4 g64 symmetric"), "{without:?}");
    assert_eq!(without, stored("--data text.txt --samples 2 --seq-len 16"));
    let given = stored("--group-size 32");
    assert!(given.iter().any(|stored| stored == "int4 g32 symmetric"));
    assert_eq!(given, stored("--group-size 32 --data text.txt --samples 2 --seq-len 16"));
}

#[test]
fn bits_in_a_gguf_are_blocks() {
    let folder = Model::of("tiny-llama").folder();
    ok(folder.path(), "quantize model --bits 8 -o a.gguf");
    let by_name = json(folder.path(), "quantize model --scheme q8_0 -o b.gguf --json");
    assert_eq!(by_name["format"], "gguf");
    let tensors = |file: &str| json(folder.path(), &format!("inspect {file} --json"))["tensors"].clone();
    assert_eq!(tensors("a.gguf"), tensors("b.gguf"));
    let plan = json(folder.path(), "plan model --bits 4 --format gguf --json");
    let stored = plan["tensors"].as_array().unwrap().iter().map(|tensor| tensor["stored"].as_str().unwrap());
    assert!(
        stored.filter(|stored| stored.starts_with("q4_k") || stored.starts_with("q5_")).count() > 0,
        "{plan}"
    );
}

#[test]
fn a_recipe_asks_for_a_text() {
    let folder = Model::of("tiny-llama").folder();
    let before = contents(folder.path());
    let stderr = fails(folder.path(), "run w4a16-gptq --model model", 2);
    let expected =
        ["the recipe w4a16-gptq calibrates on a text, and none is named", "--data self", "--data FILE"];
    assert!(expected.iter().all(|words| stderr.contains(words)), "{stderr}");
    assert_eq!(before, contents(folder.path()));
}

#[test]
fn weights_without_a_config_are_warned_of_before_the_work() {
    let folder = Model::of("tiny-llama").folder();
    std::fs::remove_file(folder.path().join("model/config.json")).unwrap();
    let lines = told(folder.path(), "quantize model --bits 4 -o out");
    assert!(lines[0].starts_with("warning: model: no config.json beside the weights"), "{lines:?}");
    assert!(command(&lines, "serve:").is_none() && command(&lines, "lose less:").is_none(), "{lines:?}");
    let card = std::fs::read_to_string(folder.path().join("out/README.md")).unwrap();
    assert!(card.contains("no config.json") && !card.contains("vllm"), "{card}");
}

#[test]
fn text_that_the_model_wrote_survives_an_interruption() {
    let line = "quantize model --bits 4 --data self --samples 3 --seq-len 40 -o out --json";
    let (folder, whole) = (Model::of("tiny-llama").folder(), Model::of("tiny-llama").folder());
    ok(whole.path(), line);
    let output = interrupted_at(folder.path(), line, "own text written", 12, Signal::Interrupt);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("it goes on from the text so far"), "{stderr}");
    let left = contents(&folder.path().join("out.partial"));
    assert_eq!(left.keys().collect::<Vec<_>>(), ["own-text.json"]);
    let kept: Value = serde_json::from_slice(&left["own-text.json"]).unwrap();
    assert_eq!(kept["sequences"][2].as_array().unwrap().len(), 13);
    // The rest is 27 tokens of each sequence, and after that the blocks begin.
    interrupted_at(folder.path(), line, "own text written", 27, Signal::Kill);
    interrupted_at(folder.path(), line, "block 0 done", 1, Signal::Kill);
    assert!(contents(&folder.path().join("out.partial")).contains_key("own-text.json"));
    ok(folder.path(), line);
    assert_same(&whole.path().join("out"), &folder.path().join("out"));
    assert!(!folder.path().join("out.partial").exists());
}

#[test]
fn ctrl_c_is_answered_at_once() {
    let folder = Model::of("tiny-llama").with_blocks(16).folder();
    let mut child = llmc(folder.path());
    child.args("quantize model --bits 4 --data text.txt --samples 64 --seq-len 32 -o out".split(' '));
    let mut child = child.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("note: int4"));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest[0].starts_with("stopping; Ctrl-C again ends now"), "{rest:?}");
    assert!(rest.iter().any(|line| line == "error: interrupted"), "{rest:?}");
}
