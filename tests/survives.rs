//! Interrupted at any point, the same command goes on and ends with the same bytes; so do other numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{
    Signal, assert_same, contents, fails, fixture, interrupted_at, ok, weights, with_mounts, write_checkpoint,
};

const ARGUMENTS: &str = "quantize weights.safetensors --scheme w4a16 --method mse --format gptq-v2 --asymmetric \
                         --group-size 32 --max-shard-size 200KB -o out --threads 2";
/// The tensors of the checkpoint: each is one step.
const STEPS: usize = 25;

fn checkpoint(folder: &Path) {
    let tensors: Vec<_> = (1..STEPS)
        .map(|i| (format!("layers.{i}.fc.weight"), vec![128, 256], weights(i as u64, 128 * 256)))
        .chain([("embed_tokens.weight".into(), vec![64, 64], weights(99, 64 * 64))])
        .collect();
    write_checkpoint(&folder.join("weights.safetensors"), &tensors);
}

/// A folder with the checkpoint in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    folder
}

/// A folder with the output of a run that nothing interrupted.
fn whole() -> tempfile::TempDir {
    let folder = folder();
    ok(folder.path(), ARGUMENTS);
    folder
}

/// Returns the tensors that are finished according to the journal of a partial output.
fn finished(folder: &Path) -> BTreeSet<usize> {
    let journal = std::fs::read_to_string(folder.join("out.partial/llmc.journal")).unwrap();
    journal.lines().filter_map(|line| line.split_once(' ')?.0.parse().ok()).collect()
}

#[test]
fn killed_at_many_points_and_resumed() {
    let whole = whole();
    let points = [("tensor done", &[1, 2, 3, 7, 12, 18, 24, STEPS][..]), ("write", &[1, 5, 20, 50, 73, 74])];
    for (point, counts) in points.into_iter().chain([("publish", &[1][..])]) {
        for &count in counts {
            let folder = folder();
            interrupted_at(folder.path(), ARGUMENTS, point, count, Signal::Kill);
            assert!(!folder.path().join("out").exists(), "{point} {count}");
            let left = finished(folder.path()).len();
            assert!(point != "tensor done" || left >= count, "{left} of {count} steps are in the journal");
            ok(folder.path(), ARGUMENTS);
            assert_same(&whole.path().join("out"), &folder.path().join("out"));
            assert!(!folder.path().join("out.partial").exists());
        }
    }
}

#[test]
fn killed_again_and_again_it_still_ends() {
    let whole = whole();
    let folder = folder();
    let mut before = 0;
    while before < STEPS - 4 {
        interrupted_at(folder.path(), ARGUMENTS, "tensor done", 3, Signal::Kill);
        let now = finished(folder.path()).len();
        assert!(now >= before + 3, "{now} steps are finished, {before} were before");
        before = now;
    }
    ok(folder.path(), ARGUMENTS);
    assert_same(&whole.path().join("out"), &folder.path().join("out"));
}

#[test]
fn what_an_interrupted_run_left_is_not_trusted_blindly() {
    let whole = whole();
    for damage in ["weights", "tokenizer"] {
        let folder = folder();
        let partial = folder.path().join("out.partial");
        interrupted_at(folder.path(), ARGUMENTS, "tensor done", 4, Signal::Kill);
        match damage {
            "weights" => std::fs::remove_file(partial.join("model-00001-of-00003.safetensors")).unwrap(),
            _ => std::fs::write(partial.join("README.md"), "cut sh").unwrap(),
        }
        ok(folder.path(), ARGUMENTS);
        assert_same(&whole.path().join("out"), &folder.path().join("out"));
    }
}

/// Flips a bit at many places of the weight files of a partial output, behind their headers.
fn damage(partial: &Path) -> usize {
    let mut changed = 0;
    for (name, mut content) in contents(partial) {
        if name.ends_with(".safetensors") {
            let header = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
            (8 + header..content.len()).step_by(1009).for_each(|at| content[at] ^= 4);
            changed += 1;
            std::fs::write(partial.join(name), content).unwrap();
        }
    }
    changed
}

/// A journal names tensors; what counts is that their bytes are those that were written.
#[test]
fn a_damaged_partial_output_and_a_forged_journal_are_found() {
    let whole = whole();
    for forged in [false, true] {
        let folder = folder();
        let partial = folder.path().join("out.partial");
        interrupted_at(folder.path(), ARGUMENTS, "tensor done", 12, Signal::Kill);
        if forged {
            let journal = partial.join("llmc.journal");
            let lines: String = (0..STEPS).map(|i| format!("{i}\n{i} {}\n", "ab".repeat(8))).collect();
            let text = std::fs::read_to_string(&journal).unwrap() + &lines;
            std::fs::write(&journal, text).unwrap();
        } else {
            assert_eq!(damage(&partial), 3);
        }
        let output = common::run(folder.path(), ARGUMENTS);
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("tensors changed since they were written"), "{said}");
        assert_same(&whole.path().join("out"), &folder.path().join("out"));
    }
}

/// Tensors that are finished, and whole, are not made again: the sums of what was written, in any order and cut, are those of the
/// file.
#[test]
fn whole_tensors_are_found_whole_in_every_format() {
    for flags in [
        "--scheme w4a16 --format compressed-tensors",
        "--scheme w4a16-asym --format compressed-tensors",
        "--scheme w3a16 --format gptq",
        "--scheme w4a16-asym --format awq",
        "--scheme fp8-block",
        "--scheme nvfp4",
        "--scheme q4_k --format dense",
        "--scheme q5_0 -o x.gguf",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = if flags.contains("-o") { "" } else { "-o out" };
        let line = format!("quantize {} {flags} {output} --threads 2", fixture("tiny-llama").display());
        interrupted_at(folder.path(), &line, "tensor done", 15, Signal::Kill);
        let resumed = common::run(folder.path(), &format!("{line} -v"));
        let said = String::from_utf8_lossy(&resumed.stderr);
        assert!(
            resumed.status.success() && said.contains("going on from an interrupted run"),
            "{flags}: {said}"
        );
        assert!(!said.contains("changed since"), "{flags}: {said}");
    }
}

/// A crash between the renames of an output that replaces another loses neither.
#[test]
fn killed_while_it_replaces_an_output() {
    let whole = whole();
    let again = format!("{ARGUMENTS} --overwrite");
    let old = ARGUMENTS.replace("--group-size 32", "--group-size 64");
    for (point, published) in [("publish", false), ("published", true)] {
        let folder = folder();
        ok(folder.path(), &old);
        let before = contents(&folder.path().join("out"));
        interrupted_at(folder.path(), &again, point, 1, Signal::Kill);
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside = entries.into_iter().find(|path| path.to_string_lossy().contains("out.replaced-"));
        assert!(before == contents(&aside.unwrap()), "{point}");
        assert_eq!(folder.path().join("out").exists(), published, "{point}");
        ok(folder.path(), &again);
        let [mut whole, mut out] = [&whole, &folder].map(|folder| contents(&folder.path().join("out")));
        // The model card has the command in it.
        assert!(whole.remove("README.md").is_some() && out.remove("README.md").is_some());
        assert!(whole == out, "{point}");
    }
}

#[cfg(unix)]
#[test]
fn sigint_stops_cleanly_and_resumes() {
    let whole = whole();
    let folder = folder();
    interrupted_at(folder.path(), ARGUMENTS, "tensor done", 2, Signal::Interrupt);
    assert!(!folder.path().join("out").exists());
    let finished = finished(folder.path()).len();
    assert!((2..STEPS).contains(&finished), "{finished} steps are finished");
    ok(folder.path(), ARGUMENTS);
    assert_same(&whole.path().join("out"), &folder.path().join("out"));
}

#[test]
fn the_number_of_threads_does_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    for (scheme, format) in [
        ("w4a16", "awq"),
        ("w3a16", "gptq-v2"),
        ("nvfp4", "compressed-tensors"),
        ("q4_k", "gguf"),
        ("w8a8", "compressed-tensors"),
    ] {
        let make = |threads: usize| {
            let here = folder.path().join(format!("{scheme}-{threads}"));
            std::fs::create_dir_all(&here).unwrap();
            let line = format!(
                "quantize {} --scheme {scheme} --format {format} -o out --quiet --threads {threads}",
                model.display()
            );
            ok(&here, &line);
            let mut all = contents(&here.join("out"));
            all.remove("README.md");
            all
        };
        assert!(make(1) == make(3), "{scheme}: 1 and 3 threads give different bytes");
    }
}

/// `--overwrite` replaces what llmc wrote, and nothing else: neither weights alone make a folder ours, nor a name a GGUF.
#[test]
fn only_our_own_is_overwritten() {
    let folder = folder();
    let here = folder.path();
    let quantize = "quantize weights.safetensors --scheme w8a16 -o out --overwrite";
    ok(here, quantize);
    std::fs::write(here.join("out/calibration.txt"), "mine").unwrap();
    assert!(fails(here, quantize, 2).contains("other files"));
    assert_eq!(std::fs::read(here.join("out/calibration.txt")).unwrap(), b"mine");
    std::fs::create_dir(here.join("folder")).unwrap();
    std::fs::copy(here.join("weights.safetensors"), here.join("folder/weights.safetensors")).unwrap();
    ok(here, "quantize weights.safetensors --scheme w8a16 -o other");
    std::fs::copy(here.join("weights.safetensors"), here.join("other/only-copy.safetensors")).unwrap();
    assert!(
        fails(here, "quantize weights.safetensors --scheme w8a16 -o other --overwrite", 2)
            .contains("other files")
    );
    let over = "quantize weights.safetensors --scheme w8a16 -o folder --overwrite";
    assert!(fails(here, over, 2).contains("not written by llmc"));
}

#[test]
fn what_is_there_is_not_lost() {
    let folder = folder();
    let here = folder.path();
    let quantize = "quantize weights.safetensors --scheme w8a16 -o out";
    ok(here, quantize);
    let before = contents(&here.join("out"));

    assert!(fails(here, quantize, 2).contains("exists already"));
    assert!(before == contents(&here.join("out")));
    ok(here, &format!("{quantize} --overwrite"));
    assert!(!here.join("out.replaced").exists());

    let input = std::fs::read(here.join("weights.safetensors")).unwrap();
    let over = "quantize weights.safetensors --scheme w8a16 --overwrite -o";
    assert!(fails(here, &format!("{over} weights.safetensors"), 2).contains("is the input"));
    assert!(fails(here, &format!("{over} ."), 2).contains("names no file"));
    assert!(fails(here, &format!("{over} {}", here.display()), 2).contains("holds it"));
    assert!(input == std::fs::read(here.join("weights.safetensors")).unwrap());

    for (name, line) in [("folder", "w8a16 -o folder"), ("x.gguf", "q8_0 --format gguf -o x.gguf")] {
        std::fs::create_dir(here.join(name)).unwrap();
        std::fs::write(here.join(name).join("thesis.txt"), "mine").unwrap();
        let line = format!("quantize weights.safetensors --overwrite --scheme {line}");
        let said = fails(here, &line, if name == "folder" { 2 } else { 1 });
        assert!(name != "folder" || said.contains("not written by llmc"), "{said}");
        assert_eq!(std::fs::read(here.join(name).join("thesis.txt")).unwrap(), b"mine");
    }
    assert!(
        fails(here, "quantize weights.safetensors --scheme w8a16 -o w.gguf", 2).contains("named like a GGUF")
    );
    assert!(fails(here, "quantize weights.safetensors --scheme w8a16 -o ..", 2).contains("names no file"));

    std::fs::create_dir(here.join("mine.partial")).unwrap();
    std::fs::write(here.join("mine.partial/notes.txt"), "mine").unwrap();
    for flag in ["", " --no-resume"] {
        let line = format!("quantize weights.safetensors --scheme w8a16 -o mine{flag}");
        assert!(fails(here, &line, 1).contains("in the way"));
    }
    assert_eq!(std::fs::read(here.join("mine.partial/notes.txt")).unwrap(), b"mine");
}

/// A partial output that holds links leads to other files.
#[test]
fn links_in_a_partial_output_are_not_followed() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("precious"), "mine").unwrap();
    std::fs::create_dir(here.join("linked.partial")).unwrap();
    std::os::unix::fs::symlink(here.join("precious"), here.join("linked.partial/llmc.journal")).unwrap();
    let line = "quantize weights.safetensors --scheme w8a16 -o linked --no-resume";
    assert!(fails(here, line, 1).contains("in the way"));
    let inner = here.join("linked.partial/adapter");
    std::fs::create_dir(&inner).unwrap();
    std::fs::rename(here.join("linked.partial/llmc.journal"), inner.join("adapter_config.json")).unwrap();
    std::fs::write(here.join("linked.partial/llmc.journal"), "").unwrap();
    assert!(fails(here, line, 1).contains("in the way"));
    assert_eq!(std::fs::read(here.join("precious")).unwrap(), b"mine");
}

#[test]
fn what_another_run_left_is_not_mixed_in() {
    let folder = folder();
    interrupted_at(folder.path(), ARGUMENTS, "tensor done", 3, Signal::Kill);
    let other = ARGUMENTS.replace("--group-size 32", "--group-size 64");
    assert!(fails(folder.path(), &other, 1).contains("another input, recipe, device or version"));
    assert!(finished(folder.path()).len() >= 3, "what was left is still there");
    ok(folder.path(), &format!("{other} --no-resume"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_before_any_work_and_survived() {
    let folder = folder();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let binary = env!("CARGO_BIN_EXE_llmc");
    let script = format!(
        "mount -t tmpfs -o size=300k none disk
         {binary} {ARGUMENTS} > /dev/null 2> small.txt || echo $? >> small.txt
         mount -o remount,size=1m disk
         cat /dev/zero > disk/filler 2> /dev/null || true
         {binary} {ARGUMENTS} > /dev/null 2> full.txt || echo $? >> full.txt
         rm disk/filler
         {binary} {ARGUMENTS} > /dev/null
         cp -r disk/out freed",
        ARGUMENTS = ARGUMENTS.replace("-o out", "-o disk/out"),
    );
    if !with_mounts(folder.path(), &script) {
        return;
    }
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["small.txt", "full.txt"] {
        let said = text(name);
        assert!(said.contains("hint: free some space") && said.ends_with("1\n"), "{name}: {said}");
    }
    ok(folder.path(), &ARGUMENTS.replace("-o out", "-o whole"));
    let [mut whole, mut freed] = ["whole", "freed"].map(|name| contents(&folder.path().join(name)));
    assert!(whole.remove("README.md").is_some() && freed.remove("README.md").is_some());
    assert!(whole == freed);
}
