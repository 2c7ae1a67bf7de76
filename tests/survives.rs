//! Interrupted at any point, the same command goes on and ends with the same bytes; so do other numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, contents, fails, fixture, llmc, ok, run, weights, write_checkpoint};

const ARGUMENTS: &str = "quantize model.safetensors --scheme w4a16 --method mse --format gptq-v2 --asymmetric \
                         --group-size 32 --max-shard-size 200KB -o out --threads 2";

fn checkpoint(folder: &Path) {
    let tensors: Vec<_> = (0..24)
        .map(|i| (format!("layers.{i}.fc.weight"), vec![128, 256], weights(i, 128 * 256)))
        .chain([("embed_tokens.weight".into(), vec![64, 64], weights(99, 64 * 64))])
        .collect();
    write_checkpoint(&folder.join("model.safetensors"), &tensors);
}

fn start(folder: &Path) -> Child {
    llmc(folder)
        .args(ARGUMENTS.split_whitespace())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_many_points_and_resumed() {
    let whole = tempfile::tempdir().unwrap();
    checkpoint(whole.path());
    let began = Instant::now();
    ok(whole.path(), ARGUMENTS);
    let duration = began.elapsed();

    const POINTS: u32 = 24;
    let mut interrupted = 0;
    for point in 0..POINTS {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(folder.path());
        let mut child = start(folder.path());
        std::thread::sleep(duration * point / POINTS);
        child.kill().unwrap();
        child.wait().unwrap();
        let published = folder.path().join("out").exists();
        interrupted += u32::from(!published);
        if published {
            assert_same(&whole.path().join("out"), &folder.path().join("out"));
            continue;
        }
        ok(folder.path(), ARGUMENTS);
        assert_same(&whole.path().join("out"), &folder.path().join("out"));
        assert!(!folder.path().join("out.partial").exists());
    }
    assert!(interrupted >= 3, "only {interrupted} of {POINTS} runs were killed before their end");
}

#[test]
fn killed_again_and_again_it_still_ends() {
    let whole = tempfile::tempdir().unwrap();
    checkpoint(whole.path());
    let began = Instant::now();
    ok(whole.path(), ARGUMENTS);
    let step = began.elapsed() / 4;
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    for _ in 0..20 {
        let mut child = start(folder.path());
        std::thread::sleep(step);
        child.kill().unwrap();
        child.wait().unwrap();
        if folder.path().join("out").exists() {
            break;
        }
    }
    if !folder.path().join("out").exists() {
        ok(folder.path(), ARGUMENTS);
    }
    assert_same(&whole.path().join("out"), &folder.path().join("out"));
}

#[test]
fn what_an_interrupted_run_left_is_not_trusted_blindly() {
    let whole = tempfile::tempdir().unwrap();
    checkpoint(whole.path());
    ok(whole.path(), ARGUMENTS);
    for damage in ["weights", "tokenizer"] {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(folder.path());
        let mut child = start(folder.path());
        let partial = folder.path().join("out.partial");
        let lines =
            || std::fs::read_to_string(partial.join("llmc.journal")).map_or(0, |text| text.lines().count());
        while lines() < 4 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !partial.exists() {
            return eprintln!("skipped: the run ended before it could be killed");
        }
        match damage {
            "weights" => std::fs::remove_file(partial.join("model-00001-of-00003.safetensors")).unwrap(),
            _ => std::fs::write(partial.join("README.md"), "cut sh").unwrap(),
        }
        ok(folder.path(), ARGUMENTS);
        assert_same(&whole.path().join("out"), &folder.path().join("out"));
    }
}

#[cfg(unix)]
#[test]
fn sigint_stops_cleanly_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    ok(folder.path(), &ARGUMENTS.replace("-o out", "-o whole"));
    let child = start(folder.path());
    std::thread::sleep(Duration::from_millis(60));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    if killed.success() && !output.status.success() {
        assert_eq!(output.status.code(), Some(130));
        assert!(!folder.path().join("out").exists());
        ok(folder.path(), ARGUMENTS);
    }
    // The model card has the command in it, and so the output's name.
    let [mut whole, mut out] = ["whole", "out"].map(|name| contents(&folder.path().join(name)));
    assert!(whole.remove("README.md").is_some() && out.remove("README.md").is_some());
    assert!(whole == out);
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

#[test]
fn what_is_there_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let here = folder.path();
    let quantize = "quantize model.safetensors --scheme w8a16 -o out";
    ok(here, quantize);
    let before = contents(&here.join("out"));

    assert!(fails(here, quantize, 2).contains("exists already"));
    assert!(before == contents(&here.join("out")));
    ok(here, &format!("{quantize} --overwrite"));
    assert!(!here.join("out.replaced").exists());

    let input = std::fs::read(here.join("model.safetensors")).unwrap();
    let over = "quantize model.safetensors --scheme w8a16 --overwrite -o";
    assert!(fails(here, &format!("{over} model.safetensors"), 2).contains("is the input"));
    assert!(fails(here, &format!("{over} ."), 2).contains("names no file"));
    assert!(fails(here, &format!("{over} {}", here.display()), 2).contains("holds it"));
    assert!(input == std::fs::read(here.join("model.safetensors")).unwrap());

    for (name, line) in [("folder", "w8a16 -o folder"), ("x.gguf", "q8_0 --format gguf -o x.gguf")] {
        std::fs::create_dir(here.join(name)).unwrap();
        std::fs::write(here.join(name).join("thesis.txt"), "mine").unwrap();
        let line = format!("quantize model.safetensors --overwrite --scheme {line}");
        let said = fails(here, &line, if name == "folder" { 2 } else { 1 });
        assert!(name != "folder" || said.contains("not what llmc writes"), "{said}");
        assert_eq!(std::fs::read(here.join(name).join("thesis.txt")).unwrap(), b"mine");
    }
    assert!(
        fails(here, "quantize model.safetensors --scheme w8a16 -o w.gguf", 2).contains("named like a GGUF")
    );
    assert!(fails(here, "quantize model.safetensors --scheme w8a16 -o ..", 2).contains("names no file"));

    std::fs::create_dir(here.join("mine.partial")).unwrap();
    std::fs::write(here.join("mine.partial/notes.txt"), "mine").unwrap();
    for flag in ["", " --no-resume"] {
        let line = format!("quantize model.safetensors --scheme w8a16 -o mine{flag}");
        assert!(fails(here, &line, 1).contains("in the way"));
    }
    assert_eq!(std::fs::read(here.join("mine.partial/notes.txt")).unwrap(), b"mine");
}

#[test]
fn what_another_run_left_is_not_mixed_in() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let mut child = start(folder.path());
    let partial = folder.path().join("out.partial/llmc.journal");
    let began = Instant::now();
    while !partial.exists() && began.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    child.kill().unwrap();
    child.wait().unwrap();
    if folder.path().join("out").exists() {
        return eprintln!("skipped: the run ended before it could be killed");
    }
    let other = ARGUMENTS.replace("--group-size 32", "--group-size 64");
    assert!(fails(folder.path(), &other, 1).contains("another input, recipe or version"));
    assert!(partial.exists(), "what was left is still there");
    ok(folder.path(), &format!("{other} --no-resume"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_before_any_work_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let binary = env!("CARGO_BIN_EXE_llmc");
    let script = format!(
        "mount -t tmpfs -o size=300k none disk || exit 77
         {binary} {ARGUMENTS} > /dev/null 2> small.txt; echo $? >> small.txt
         mount -o remount,size=1m disk
         cat /dev/zero > disk/filler 2> /dev/null
         {binary} {ARGUMENTS} > /dev/null 2> full.txt; echo $? >> full.txt
         rm -f disk/filler
         {binary} {ARGUMENTS} > /dev/null 2> freed.txt || true
         cp -r disk/out freed",
        ARGUMENTS = ARGUMENTS.replace("-o out", "-o disk/out"),
    );
    let status = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(folder.path())
        .status();
    if !status.is_ok_and(|status| status.code() != Some(77) && folder.path().join("freed").exists()) {
        return eprintln!("skipped: no user namespaces here to mount a small disk in");
    }
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["small.txt", "full.txt"] {
        let said = text(name);
        assert!(said.contains("hint: free some space") && said.ends_with("1\n"), "{name}: {said}");
    }
    run(folder.path(), &ARGUMENTS.replace("-o out", "-o whole"));
    let [mut whole, mut freed] = ["whole", "freed"].map(|name| contents(&folder.path().join(name)));
    whole.remove("README.md");
    freed.remove("README.md");
    assert!(whole == freed);
}
