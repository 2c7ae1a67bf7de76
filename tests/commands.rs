//! The commands that list what llmc knows and keeps, and the conversation: what they print on a pipe, and how they end.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{fails, fixture, json, llmc, ok, run};
use serde_json::Value;

#[test]
fn schemes_have_sizes_formats_engines_and_losses() {
    let here = tempfile::tempdir().unwrap();
    let all = json(here.path(), "schemes --json");
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), llmc::numerics::presets::PRESETS.len());
    let w4a16 = all.iter().find(|scheme| scheme["name"] == "w4a16").unwrap();
    assert_eq!(w4a16["bits_per_weight"], 4.125);
    assert_eq!(w4a16["measured"][2]["method"], "gptq");
    let text = ok(here.path(), "schemes");
    for scheme in all {
        assert!(text.lines().any(|line| line.split(' ').next() == scheme["name"].as_str()), "{scheme}");
    }
    let line = text.lines().find(|line| line.starts_with("w4a16 ")).unwrap();
    let expected = "w4a16         4.125  0.4060     0.0813  compressed-tensors: transformers, vLLM, SGLang";
    assert_eq!(line, expected);
}

#[test]
fn one_scheme_is_found_by_the_names_that_people_use() {
    let here = tempfile::tempdir().unwrap();
    for name in ["q4_k", "Q4_K_M", "q4-k-m"] {
        let found = json(here.path(), &format!("schemes {name} --json"));
        assert_eq!((found.as_array().unwrap().len(), &found[0]["name"]), (1, &"q4_k".into()), "{name}");
    }
    assert!(ok(here.path(), "schemes w4a16").starts_with("INT4 in groups of 128"));
    assert!(fails(here.path(), "schemes w4a61", 2).contains("did you mean w4a16?"));
}

#[test]
fn a_printed_recipe_can_be_carried_out() {
    let here = tempfile::tempdir().unwrap();
    let text = ok(here.path(), "recipes");
    for (name, toml) in llmc::recipe::SHIPPED {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
        assert_eq!(ok(here.path(), &format!("recipes {name}")), *toml);
    }
    assert_eq!(json(here.path(), "recipes W4A16_GPTQ --json")["name"], "w4a16-gptq");
    assert!(fails(here.path(), "recipes w4a16-gtpq", 2).contains("did you mean w4a16-gptq?"));
    std::fs::write(here.path().join("mine.toml"), ok(here.path(), "recipes w4a16-gptq")).unwrap();
    let model = fixture("tiny-llama");
    let text = fixture("tokenizer_corpus.txt");
    let line = format!(
        "run mine.toml --model {} --data {} --samples 2 --dry-run --json",
        model.display(),
        text.display()
    );
    assert_eq!(json(here.path(), &line)["method"], "gptq");
    assert!(fails(here.path(), "run mien.toml --model x", 1).contains("did you mean mine.toml?"));
    assert!(fails(here.path(), "run other.toml --model x", 1).contains("llmc recipes"));
}

/// Runs with a cache folder of its own.
fn with_cache(folder: &Path, line: &str) -> String {
    let output = llmc(folder)
        .args(line.split_whitespace())
        .env("XDG_CACHE_HOME", folder.join("kept"))
        .output()
        .unwrap();
    assert!(output.status.success(), "llmc {line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_kept_is_listed_and_removed() {
    let here = tempfile::tempdir().unwrap();
    let folder = here.path().join("kept/llmc");
    assert!(with_cache(here.path(), "cache").starts_with("0 files, 0 B in "));
    let model = fixture("tiny-llama");
    let line = format!(
        "eval perplexity {0} --against {0} --data {1} --ctx 64 --chunks 2",
        model.display(),
        fixture("tokenizer_corpus.txt").display()
    );
    with_cache(here.path(), &line);
    let record: Value = serde_json::from_str(&with_cache(here.path(), "cache --json")).unwrap();
    let [file] = record["files"].as_array().unwrap().as_slice() else { panic!("{record}") };
    let path = Path::new(file["path"].as_str().unwrap());
    assert!(path.starts_with(&folder) && path.is_file(), "{record}");
    assert_eq!(file["bytes"], path.metadata().unwrap().len());
    assert!(with_cache(here.path(), "cache").contains("1 file, "));

    // A link is no file of llmc's, and what it leads to stays.
    let outside = here.path().join("outside.txt");
    std::fs::write(&outside, "mine").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
    assert!(with_cache(here.path(), "cache clear").starts_with("removed 1 file, "));
    assert!(!path.exists() && outside.exists());
    assert!(with_cache(here.path(), "cache").starts_with("0 files"));
}

#[test]
fn the_version_says_what_this_build_can_do() {
    let here = tempfile::tempdir().unwrap();
    let version = format!("llmc {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(ok(here.path(), "--version"), version);
    let whole = ok(here.path(), "--version -v");
    assert!(whole.starts_with(&version), "{whole}");
    for line in ["features", "build", "system", "instructions", "threads"] {
        assert!(whole.lines().any(|found| found.starts_with(line)), "{line}: {whole}");
    }
    let found = json(here.path(), "-v --version --json");
    assert!(found["machine"]["threads"].as_u64().unwrap() > 0 && found["features"].is_array(), "{found}");
}

#[test]
fn completions_know_the_names_and_aliases_are_taken_too() {
    let here = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(here.path(), &format!("completions {shell}"));
        for name in ["w4a16-asym", "q4_k", "smoothquant", "gptq-v2"] {
            assert!(script.contains(name), "{shell}: {name}");
        }
        // fish completes no arguments without a flag.
        assert!(script.contains("w4a16-rotate-gptq") || shell == "fish", "{shell}");
    }
    let model = fixture("tiny-llama");
    let plan = |flags: &str| json(here.path(), &format!("plan {} {flags} --json", model.display()));
    assert_eq!(plan("--scheme INT4 --format GPTQ --method MSE")["format"], "gptq");
    assert_eq!(plan("--scheme w4a16_asym --format compressed_tensors")["format"], "compressed-tensors");
    let nearest = |flags: &str, expected: &str| {
        let stderr = fails(here.path(), &format!("plan {} --scheme w4a16 {flags}", model.display()), 2);
        assert!(stderr.contains(expected), "{flags}: {stderr}");
    };
    nearest("--format gtpq", "did you mean gptq?");
    nearest("--method gtpq", "did you mean gptq?");
}

/// Runs a conversation whose lines come from a pipe.
fn chat(folder: &Path, flags: &str, lines: &str) -> Output {
    let mut child = llmc(folder)
        .arg("chat")
        .arg(fixture("tiny-llama"))
        .args(flags.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The answers of a conversation, with their numbers of prompt tokens.
fn answers(folder: &Path, lines: &str) -> Vec<(String, u64)> {
    let output = chat(folder, "-n 8 --json --activations f32", lines);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let answer =
        |value: Value| (value["text"].as_str().unwrap().to_owned(), value["prompt_tokens"].as_u64().unwrap());
    values.map(|value| answer(value.unwrap())).collect()
}

#[test]
fn a_conversation_has_its_turns_as_context() {
    let here = tempfile::tempdir().unwrap();
    let [first, second] = answers(here.path(), "Why?\nAnd then?\n").try_into().unwrap();
    // The same question alone has another prompt, after /clear the same one.
    let [alone] = answers(here.path(), "And then?\n").try_into().unwrap();
    let cleared = answers(here.path(), "Why?\n/clear\nAnd then?\n/exit\nNever asked\n");
    assert_eq!(cleared, [first.clone(), alone.clone()]);
    assert_ne!(second, alone);
    // /system is read before the question.
    let [with_system] = answers(here.path(), "/system Be brief.\nWhy?\n").try_into().unwrap();
    assert!(with_system.1 > first.1, "{with_system:?}, {first:?}");
    // An answer is that of `generate`.
    let line =
        format!("generate {} --chat -p Why? -n 8 --json --activations f32", fixture("tiny-llama").display());
    assert_eq!(json(here.path(), &line)["text"], first.0);
}

#[test]
fn a_conversation_says_what_it_does_not_know() {
    let here = tempfile::tempdir().unwrap();
    let output = chat(here.path(), "-n 4", "/sytem x\n\nWhy?\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("/sytem is no command") && stderr.contains("/system TEXT"), "{stderr}");
    assert!(output.status.success() && output.stdout.ends_with(b"\n") && output.stdout.len() > 1);
    assert!(fails(here.path(), "chat nowhere", 1).contains("nowhere"));
}

#[test]
fn layers_that_are_alike_are_one_row() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    for command in ["inspect", "plan --bits 4"] {
        let short = ok(here.path(), &format!("{command} {}", model.display()));
        let row = short.lines().find(|line| line.starts_with("model.layers.{0,1}.mlp.down_proj.weight "));
        assert!(row.is_some_and(|row| row.contains("×2") && row.contains("160x512")), "{short}");
        let all = ok(here.path(), &format!("{command} {} --all", model.display()));
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.mlp.down_proj.weight ");
            assert!(all.lines().any(|line| line.starts_with(&name)), "{all}");
        }
        assert!(!all.contains("×"), "{all}");
        let totals =
            |text: &str| text.lines().filter(|line| line.contains(" tensors ")).map(str::to_owned).collect();
        let [short, all]: [Vec<String>; 2] = [totals(&short), totals(&all)];
        assert!(short == all && !all.is_empty());
    }
}

#[test]
fn a_plan_names_method_memory_and_engines() {
    let here = tempfile::tempdir().unwrap();
    let check = |flags: &str, expected: &[&str]| {
        let text = ok(here.path(), &format!("plan {} {flags}", fixture("tiny-llama").display()));
        for line in expected {
            let is_found = |found: &str| found.starts_with(line) || found.ends_with(line);
            assert!(text.lines().any(is_found), "{flags}: {line}\n{text}");
        }
    };
    check(
        "--scheme w4a16 --method mse",
        &[
            "  3  160 columns are not a multiple of 128: groups of 32",
            "method    mse, without text",
            "memory    about ",
            "loads in  transformers, vLLM, SGLang",
        ],
    );
    check("--scheme w4a16-asym", &["loads in  transformers with dequantize=True, vLLM"]);
    check("--scheme w4a16 --format gptq", &["loads in  transformers with gptqmodel, vLLM, SGLang"]);
    check("--scheme q8_0", &["loads in  llama.cpp"]);
}

#[test]
fn no_model_is_read_faster_than_this_machine_reads() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let flags = "--prefill 4 --decode 4 --batch 1 --runs 1 --json";
    let record = json(here.path(), &format!("bench {} {flags}", model.display()));
    let most = record["read_bytes_per_second"].as_f64().unwrap();
    let rates: Vec<f64> = record["tests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|test| test["weight_bytes_per_second"].as_f64())
        .collect();
    assert!(rates.len() == 1 && rates[0] > 0.0 && rates[0] <= most, "{record}");
}

#[test]
fn group_sizes_that_fit_nothing_are_refused() {
    let here = tempfile::tempdir().unwrap();
    let plan = |flags: &str| format!("plan {} --scheme w4a16 {flags}", fixture("tiny-llama").display());
    for format in ["compressed-tensors", "gptq", "awq"] {
        let stderr = fails(here.path(), &plan(&format!("--group-size 100 --format {format}")), 2);
        assert!(stderr.contains("columns are 160, 512") && stderr.contains("--group-size 32"), "{stderr}");
    }
    ok(here.path(), &plan("--group-size 80"));
    ok(here.path(), &plan("--group-size 128"));
}

#[test]
fn a_path_that_is_nearly_right_is_suggested() {
    let here = tempfile::tempdir().unwrap();
    let model = here.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(here.path().join("corpus.txt"), "some text").unwrap();
    let suggests = |line: &str, expected: &str| {
        let stderr = fails(here.path(), line, 1);
        assert!(stderr.contains(&format!("did you mean {expected}?")), "{line}: {stderr}");
    };
    suggests("inspect modle", "model");
    suggests("quantize --bits 4 model/model.safetensor", "model/model.safetensors");
    suggests("verify modle", "model");
    suggests("eval perplexity model --data corpsu.txt", "corpus.txt");
    suggests("quantize --bits 4 model --data corpsu.txt", "corpus.txt");
    let stderr = fails(here.path(), "eval perplexity model --data other.txt", 1);
    assert!(stderr.contains("name a text"), "{stderr}");
    assert_eq!(run(here.path(), "inspect nothing-like-it").status.code(), Some(1));
}
