//! Limits and faults of the system, and numbers beyond any use: each is an error with a message, never a bare signal, a panic,
//! or a wait without end.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{fails, fixture, llmc, ok, run, weights, write_checkpoint};

/// Runs a shell script in which `llmc` is the binary.
fn shell(folder: &Path, script: &str) -> Output {
    let script = format!("llmc() {{ {} \"$@\"; }}; {script}", env!("CARGO_BIN_EXE_llmc"));
    Command::new("bash").args(["-c", &script]).current_dir(folder).output().unwrap()
}

/// Expects an exit code of a shell script, returns stderr.
fn ends(folder: &Path, script: &str, code: i32) -> String {
    let output = shell(folder, script);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{script}\n{stderr}");
    stderr
}

/// A folder with a checkpoint of several matrices.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let matrix = |i: usize| (format!("layers.{i}.fc.weight"), vec![128, 256], weights(i as u64, 128 * 256));
    write_checkpoint(&folder.path().join("model.safetensors"), &(0..16).map(matrix).collect::<Vec<_>>());
    folder
}

const QUANTIZE: &str = "llmc quantize model.safetensors --scheme w8a16 -o out";

#[test]
fn output_that_cannot_be_written_is_no_panic() {
    let folder = folder();
    let here = folder.path();
    for command in
        ["llmc --help", "llmc --version", "llmc inspect model.safetensors", "llmc completions bash"]
    {
        let said = ends(here, &format!("{command} > /dev/full"), 1);
        assert!(said.contains("error: stdout: No space left"), "{command}: {said}");
        ends(here, &format!("({command}; echo $? > code) | true"), 0);
        assert_eq!(std::fs::read_to_string(here.join("code")).unwrap(), "0\n", "{command}");
    }
    ends(here, "llmc quantize model.safetensors --scheme none -o out 2> /dev/full", 2);
    ends(here, "llmc --no-such-flag 2> /dev/full", 2);
    ends(here, &format!("{QUANTIZE} -vv 2> /dev/full"), 0);
    ends(here, &format!("({QUANTIZE} --overwrite -vv 2>&1; echo $? > code) | true"), 0);
    assert_eq!(std::fs::read_to_string(here.join("code")).unwrap(), "0\n");
}

#[test]
fn a_limit_on_files_is_an_ordinary_error() {
    let folder = folder();
    let said = ends(folder.path(), &format!("ulimit -f 64; {QUANTIZE}"), 1);
    assert!(said.contains("out.partial") && said.contains("hint: the system limits"), "{said}");
    assert!(!folder.path().join("out").exists());
    ok(folder.path(), QUANTIZE.strip_prefix("llmc ").unwrap());
}

/// The input is cut short while a run that is stopped has it mapped.
#[cfg(target_os = "linux")]
#[test]
fn an_input_that_is_cut_short_is_named() {
    const STOP: u32 = 19;
    let folder = folder();
    let mut command = llmc(folder.path());
    command.args(QUANTIZE.split_whitespace().skip(1)).args(["--threads", "1"]);
    let child = command.env("LLMC_FAULT", format!("write/1/{STOP}")).stderr(Stdio::piped()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let input = std::fs::File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
    input.set_len(4096).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: model.safetensors became shorter while it was read"), "{said}");
}

/// An allocation that fails aborts, and so does this.
#[test]
fn an_abort_is_an_exit_code() {
    const ABORT: u32 = 6;
    let folder = folder();
    let mut command = llmc(folder.path());
    command.args(QUANTIZE.split_whitespace().skip(1)).env("LLMC_FAULT", format!("write/1/{ABORT}"));
    assert_eq!(command.output().unwrap().status.code(), Some(1));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    for name in ["pipe.txt", "pipe.jsonl", "pipe.toml"] {
        assert!(Command::new("mkfifo").arg(here.join(name)).status().unwrap().success());
    }
    let quantize = format!("quantize {model} --scheme w4a16 --group-size 32 --method gptq -o out");
    for line in [
        format!("{quantize} --data pipe.txt"),
        format!("{quantize} --data pipe.jsonl"),
        format!("{quantize} --data /dev/zero"),
        format!("{quantize} --stats /dev/zero"),
        format!("run pipe.toml --model {model} -o out"),
        format!("eval perplexity {model} --data pipe.txt"),
        format!("eval perplexity {model} --data /dev/zero"),
        format!("eval tasks {model} --tasks pipe.toml"),
        format!("eval embeddings {model} --against {model} --data pipe.txt"),
    ] {
        let output = run(here, &line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code().is_some(), "{line}: {said}");
        assert!(said.contains("regular file") || said.contains("a folder of statistics"), "{line}: {said}");
    }
}

#[test]
fn numbers_have_bounds() {
    let folder = folder();
    let here = folder.path();
    let quantize = "quantize model.safetensors -o out --scheme w4a16";
    let check = |flags: &str, expected: &str| {
        let said = fails(here, &format!("{quantize} {flags}"), 2);
        assert!(said.contains(expected), "{flags}: {said}");
    };
    check("--group-size 100000", "group_size is 100000");
    check("--method hqq --set hqq.iters=1000000000000", "hqq: iters is 1000000000000");
    check("--method hqq --set hqq.beta=nan", "hqq: beta is NaN");
    check("--data t.txt --samples 100000000", "calibration: samples is 100000000");
    check("--data t.txt --seq-len 100000000", "calibration: seq_len is 100000000");
    check("--data t.txt --method awq --set awq.n_grid=1000000000000", "awq: n_grid is 1000000000000");
    check("--data t.txt --method gptq --set gptq.block_size=0", "gptq: block_size is 0");
    check("--data t.txt --method gptq,eora --set eora.rank=10000000", "eora: rank is 10000000");
    let stages = "[[stages]]\nmethod = \"rotate\"\n".repeat(100_000);
    std::fs::write(here.join("long.toml"), format!("scheme = \"w4a16\"\n{stages}")).unwrap();
    let said = fails(here, "run long.toml --model model.safetensors -o out", 2);
    assert!(said.contains("the number of stages is 100000"), "{said}");
    for line in [
        "generate model.safetensors -p a -n 100000000000",
        "eval perplexity model.safetensors --data t.txt --ctx 100000000000",
        "eval perplexity model.safetensors --data t.txt --batch 100000000000",
        "eval tasks model.safetensors --tasks hellaswag --fewshot 100000000000",
        "bench model.safetensors --decode 100000000000",
        "bench model.safetensors --runs 100000000000",
    ] {
        let output = run(here, line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("is not in 0.."), "{line}: {said}");
    }
}
