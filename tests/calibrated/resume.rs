//! Stopped in any block, the same command goes on from that block, and ends with the bytes of a run that never stopped.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::common::{Signal, assert_same, contents, interrupted_at, json, ok, run};
use crate::model::Model;

const BLOCKS: usize = 8;
const GPTQ: &str = "quantize model --scheme w4a16 --group-size 16 --method gptq --data text.txt --samples 16 \
                    --seq-len 64 --json -o out";

fn material() -> tempfile::TempDir {
    Model::of("tiny-qwen2-sharded").with_blocks(BLOCKS).folder()
}

/// The place where a run is stopped.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// At the end of a block, which the journal has.
    Done(usize),
    /// In a block: its tensors are written, the journal does not have it yet.
    Within(usize),
}

fn stop(folder: &Path, line: &str, point: Point, signal: Signal) -> Output {
    let name = match point {
        Point::Done(block) => format!("block {block} done"),
        Point::Within(block) => format!("block {block} written"),
    };
    interrupted_at(folder, line, &name, 1, signal)
}

/// The result of a run that was never stopped: its files, and its report of the blocks.
fn whole(line: &str) -> (tempfile::TempDir, Value) {
    let folder = material();
    let report = json(folder.path(), line);
    assert_eq!(report["blocks"].as_array().unwrap().len(), BLOCKS);
    (folder, report["blocks"].clone())
}

/// The blocks that a finished run worked on, by what it says on stderr.
fn worked_on(output: &Output) -> Vec<u64> {
    let events = String::from_utf8(output.stderr.clone()).unwrap();
    let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "block").map(|event| event["block"].as_u64().unwrap()).collect()
}

/// Runs a command line to its end, expects the bytes and the report of the whole run.
fn check_resumed(folder: &Path, line: &str, whole: &(tempfile::TempDir, Value), first: u64) {
    let output = run(folder, line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(worked_on(&output), (first..BLOCKS as u64).collect::<Vec<_>>());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["blocks"], whole.1);
    assert_same(&whole.0.path().join("out"), &folder.join("out"));
    assert!(!folder.join("out.partial").exists());
}

#[test]
fn killed_in_block_after_block_it_ends_the_same() {
    let whole = whole(GPTQ);
    let folder = material();
    let done = [Point::Within(0), Point::Done(0), Point::Within(2), Point::Within(3), Point::Done(5)];
    for point in done.into_iter().chain([Point::Within(6)]) {
        stop(folder.path(), GPTQ, point, Signal::Kill);
    }
    // What a block was made from is removed when it is done, and not before.
    let left = contents(&folder.path().join("out.partial"));
    assert!(left.contains_key("activations-6.f32") && !left.contains_key("activations-5.f32"));
    check_resumed(folder.path(), GPTQ, &whole, 6);
}

#[test]
fn stopped_behind_the_last_block_it_makes_none_again() {
    let whole = whole(GPTQ);
    let folder = material();
    stop(folder.path(), GPTQ, Point::Done(0), Signal::Kill);
    let in_the_way = folder.path().join("out.partial/README.md");
    fs::create_dir(&in_the_way).unwrap();
    let output = run(folder.path(), GPTQ);
    assert_eq!(output.status.code(), Some(1), "what stands beside the weights cannot be written");
    assert_eq!(worked_on(&output), (1..BLOCKS as u64).collect::<Vec<_>>());
    fs::remove_dir(&in_the_way).unwrap();
    check_resumed(folder.path(), GPTQ, &whole, BLOCKS as u64);
}

#[test]
fn interrupted_by_the_user_it_says_how_to_go_on() {
    let whole = whole(GPTQ);
    let folder = material();
    let output = stop(folder.path(), GPTQ, Point::Done(2), Signal::Interrupt);
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the same command again"));
    let journal = fs::read_to_string(folder.path().join("out.partial/llmc.journal")).unwrap();
    let done = journal
        .lines()
        .filter_map(|line| line.strip_prefix("block ")?.split_once(' ')?.0.parse::<u64>().ok());
    check_resumed(folder.path(), GPTQ, &whole, done.max().unwrap() + 1);
}

#[test]
fn scales_are_as_if_it_had_never_stopped() {
    let line = GPTQ.replace("w4a16 --group-size 16", "w8a8-static --kv-cache fp8");
    let whole = whole(&line);
    let folder = material();
    for point in [Point::Within(2), Point::Done(4)] {
        stop(folder.path(), &line, point, Signal::Kill);
    }
    check_resumed(folder.path(), &line, &whole, 5);
}

#[test]
fn methods_that_train_go_on_too() {
    let line = GPTQ.replace("gptq", "autoround --set autoround.iters=3 --set autoround.batch_size=2");
    let line = line.replace("--samples 16", "--samples 8");
    let whole = whole(&line);
    let folder = material();
    for point in [Point::Within(1), Point::Done(3)] {
        stop(folder.path(), &line, point, Signal::Kill);
    }
    assert!(folder.path().join("out.partial/reference-4.f32").exists());
    check_resumed(folder.path(), &line, &whole, 4);
}

#[test]
fn adapters_are_filled_in_where_they_were_left() {
    let line = GPTQ.replace("gptq", "gptq,eora --set eora.rank=5");
    let whole = whole(&line);
    let folder = material();
    for point in [Point::Within(1), Point::Done(3)] {
        stop(folder.path(), &line, point, Signal::Kill);
    }
    check_resumed(folder.path(), &line, &whole, 4);
}

#[test]
fn what_was_left_is_thrown_away_on_request_and_not_missed_where_it_is_lost() {
    let whole = whole(GPTQ);
    for lost in ["", "activations-4.f32", "blocks.jsonl"] {
        let folder = material();
        stop(folder.path(), GPTQ, Point::Done(3), Signal::Kill);
        if lost.is_empty() {
            let line = format!("{GPTQ} --no-resume");
            assert_eq!(worked_on(&run(folder.path(), &line)).len(), BLOCKS);
            let [mut whole, mut out] = [whole.0.path(), folder.path()].map(|at| contents(&at.join("out")));
            assert!(whole.remove("README.md") != out.remove("README.md") && whole == out);
            continue;
        }
        fs::remove_file(folder.path().join("out.partial").join(lost)).unwrap();
        check_resumed(folder.path(), GPTQ, &whole, 0);
    }
}

/// Flips a bit of a file near its end; of safetensors, at the beginning of the data, which the first block has written.
fn damage(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let at = match path.extension().is_some_and(|extension| extension == "safetensors") {
        true => 8 + u64::from_le_bytes(content[..8].try_into().unwrap()) as usize + 2,
        false => content.len() - 20,
    };
    content[at] ^= 1;
    fs::write(path, content).unwrap();
}

/// Hidden states, reports, weights and factors of finished blocks count only as they were written.
#[test]
fn damaged_blocks_are_made_again() {
    let line = GPTQ.replace("gptq", "gptq,eora --set eora.rank=5");
    let whole = whole(&line);
    for name in ["activations-4.f32", "blocks.jsonl", "adapter/adapter_model.safetensors"] {
        let folder = material();
        stop(folder.path(), &line, Point::Done(3), Signal::Kill);
        damage(&folder.path().join("out.partial").join(name));
        check_resumed(folder.path(), &line, &whole, 0);
    }
    let folder = material();
    stop(folder.path(), &line, Point::Done(3), Signal::Kill);
    let partial = folder.path().join("out.partial");
    let mut weights = fs::read(partial.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let last = weights.len() - 1;
    (8 + header..last).step_by(997).for_each(|at| weights[at] ^= 1);
    fs::write(partial.join("model.safetensors"), weights).unwrap();
    check_resumed(folder.path(), &line, &whole, 0);
}

#[test]
fn a_forged_block_is_not_believed() {
    let whole = whole(GPTQ);
    let folder = material();
    stop(folder.path(), GPTQ, Point::Done(1), Signal::Kill);
    let partial = folder.path().join("out.partial");
    let journal = fs::read_to_string(partial.join("llmc.journal")).unwrap();
    fs::write(partial.join("llmc.journal"), journal + &format!("block 2 {}\nsynced\n", "0".repeat(64)))
        .unwrap();
    fs::rename(partial.join("activations-2.f32"), partial.join("activations-3.f32")).unwrap();
    let reports = fs::read_to_string(partial.join("blocks.jsonl")).unwrap();
    let third = reports.lines().last().unwrap().replace("\"block\":1", "\"block\":2");
    fs::write(partial.join("blocks.jsonl"), format!("{reports}{third}\n")).unwrap();
    check_resumed(folder.path(), GPTQ, &whole, 0);
}

#[test]
fn of_several_outputs_none_has_holes() {
    let line = GPTQ.replace("-o out", "--format compressed-tensors,gptq-v2 -o out");
    let whole = material();
    ok(whole.path(), &line);
    for lost in ["", "out/gptq-v2.partial"] {
        let folder = material();
        stop(folder.path(), &line, Point::Done(3), Signal::Kill);
        if !lost.is_empty() {
            fs::remove_dir_all(folder.path().join(lost)).unwrap();
        }
        ok(folder.path(), &line);
        assert_same(&whole.path().join("out"), &folder.path().join("out"));
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let folder = Model::of("tiny-qwen3-moe").folder();
    for method in ["gptq", "awq", "autoround --set autoround.iters=2"] {
        let make = |threads: usize| {
            let out = format!("{}-{threads}", &method[..3]);
            let line = format!(
                "quantize model --scheme w4a16 --group-size 32 --method {method} --data text.txt --samples 4 \
                 --seq-len 48 --quiet --threads {threads} -o {out}"
            );
            ok(folder.path(), &line);
            let mut all = contents(&folder.path().join(out));
            all.remove("README.md");
            all
        };
        assert!(make(1) == make(3), "{method}: 1 and 3 threads give different bytes");
    }
}
