//! Messages about mistakes, and the files that are left after them.

use std::path::Path;

use crate::common::{assert_same, contents, fails, ok, run, with_mounts};
use crate::model::{MODEL, Model};

const GPTQ: &str = "quantize model --scheme w4a16 --group-size 32 --method gptq -o out";

#[track_caller]
fn check(folder: &Path, line: &str, code: i32, expected: &[&str]) {
    let stderr = fails(folder, line, code);
    for expected in expected {
        assert!(stderr.contains(expected), "llmc {line}\n{stderr}");
    }
    assert!(!folder.join("out").exists());
}

#[test]
fn text_that_does_not_suffice_is_said_before_any_work() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    std::fs::write(here.join("short.txt"), "Too short a text.").unwrap();
    std::fs::write(here.join("empty.txt"), "").unwrap();
    check(here, &format!("{GPTQ} --data short.txt"), 1, &["short.txt", "65536 tokens", "--data"]);
    check(here, &format!("{GPTQ} --data empty.txt"), 1, &["empty.txt"]);
    check(here, &format!("{GPTQ} --data nowhere.txt"), 1, &["nowhere.txt"]);
    check(here, &format!("{GPTQ} --data text.txt --seq-len 4096"), 2, &["512 positions", "--seq-len"]);
    check(here, &format!("{GPTQ} --data short.txt --dry-run"), 1, &["short.txt", "65536 tokens"]);
    check(here, GPTQ, 2, &["gptq: needs text to calibrate on", "--data"]);
    let left: Vec<String> = contents(here).into_keys().filter(|name| !name.starts_with(MODEL)).collect();
    assert_eq!(left, ["empty.txt", "short.txt", "text.txt"]);
}

#[test]
fn recipes_with_typos_name_what_was_meant() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let recipe = |text: &str, expected: &[&str]| {
        std::fs::write(here.join("recipe.toml"), text).unwrap();
        check(here, "run recipe.toml --model model -o out", 2, expected);
    };
    recipe("shceme = 'w4a16'", &["shceme", "did you mean scheme?"]);
    recipe("[calibration]\nsample = 4", &["sample", "did you mean samples?"]);
    recipe("[[stages]]\nmethod = 'gtpq'", &["gtpq", "did you mean gptq?"]);
    recipe("[[stages]]\nmethod = 'gptq'\ndampening = 1", &["dampening", "damping"]);
    recipe("scheme = ", &["recipe.toml: ", "line 1"]);
    recipe("scheme = 'w4a16'\n[[stages]]\nmethod = 'gptq'", &["needs text", "--data"]);
    recipe("[[stages]]\nmethod = 'autoround'\nitres = 9", &["itres", "did you mean iters?"]);
    check(here, &format!("{GPTQ} --samples 9"), 2, &["--samples", "--data"]);
    let idle = "quantize model --scheme w4a16 --group-size 32 --method rtn --data text.txt -o out";
    check(here, idle, 2, &["does not look at text", "--method gptq"]);
    check(here, &format!("{GPTQ} --data text.txt --format gptq,gptq"), 2, &["named twice"]);
    let mixed = "quantize model --scheme w8a8 --override *.down_proj*=w4a16 -o out";
    check(here, mixed, 2, &["otherwise with inputs", "w8a16"]);
    check(here, "run w4a16-gtpq --model model -o out", 2, &["did you mean w4a16-gptq?"]);
    check(here, "run nowhere.toml --model model -o out", 1, &["nowhere.toml"]);
    check(here, "run w4a16-gptq --model model --set gptq.dampin=1 -o out", 2, &["damping"]);
}

#[test]
fn inputs_that_overflow_name_their_linear() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let huge = |values: &mut [f32], _| values.iter_mut().for_each(|w| *w *= 1e30);
    let model = Model::of("tiny-llama").edit("model.layers.1.mlp.up_proj.weight", huge);
    model.edit("model.layers.1.mlp.gate_proj.weight", huge).write(here);
    let line =
        |method: &str| format!("{} --data text.txt --samples 4 --seq-len 64", GPTQ.replace("gptq", method));
    let linear = "model.layers.1.mlp.down_proj.weight: its inputs";
    for (method, what) in [
        ("gptq", linear),
        ("awq", linear),
        ("mse", linear),
        ("autoround --set autoround.iters=2", "block 1: its outputs"),
    ] {
        check(here, &line(method), 1, &[what, "not finite on the calibration text"]);
        std::fs::remove_dir_all(here.join("out.partial")).unwrap_or_default();
    }
}

#[test]
fn weights_that_are_not_finite_are_named_and_let_pass_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let name = "model.layers.1.mlp.up_proj.weight";
    let spoil = |values: &mut [f32], _| (values[3], values[77]) = (f32::NAN, f32::INFINITY);
    Model::of("tiny-llama").edit(name, spoil).write(here);
    let line = format!("{GPTQ} --data text.txt --samples 4 --seq-len 64");
    check(here, &line, 1, &[name, "1 NaN and 1 infinities", "--allow-nonfinite"]);
    let output = run(here, &format!("{line} --allow-nonfinite --no-resume"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("1 NaN and 1 infinities were let pass"), "{stderr}");
    ok(here, "verify out");
    for method in ["mse", "awq", "smoothquant,rtn", "autoround --set autoround.iters=2"] {
        let line = line.replace("gptq", method);
        ok(here, &format!("{line} --allow-nonfinite --no-resume --overwrite"));
        ok(here, "verify out");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_too_small_for_the_activations_is_said_and_survived() {
    let folder = Model::of("tiny-qwen2-sharded").folder();
    let here = folder.path();
    let line = "quantize model --scheme w4a16 --group-size 16 --method gptq --data text.txt --samples 64 \
                --seq-len 64 -o";
    std::fs::create_dir(here.join("disk")).unwrap();
    // 512 KiB for the activations before a block, as much for those behind it, and 0.1 MiB for the output: too much for the first
    // disk. The second is filled by another while the run is stopped (signal 19) behind its first block.
    let script = format!(
        "mount -t tmpfs -o size=900k none disk
         {binary} {line} disk/out > /dev/null 2> small.txt || echo $? >> small.txt
         ls disk > nothing.txt
         mount -o remount,size=2m disk
         LLMC_FAULT='block 0 written/1/19' {binary} {line} disk/out > /dev/null 2> full.txt & run=$!
         until grep -q 'State:.T' /proc/$run/status; do sleep 0.02; done
         cat /dev/zero > disk/ballast 2> /dev/null || true
         kill -CONT $run; wait $run || echo $? >> full.txt
         ls disk/out.partial > left.txt
         rm disk/ballast
         {binary} {line} disk/out > /dev/null
         cp -r disk/out freed",
        binary = env!("CARGO_BIN_EXE_llmc"),
    );
    if !with_mounts(here, &script) {
        return;
    }
    let text = |name: &str| std::fs::read_to_string(here.join(name)).unwrap();
    let full = text("full.txt");
    let small = text("small.txt");
    assert!(small.contains("for hidden states") && small.ends_with("1\n"), "{small}");
    assert_eq!(text("nothing.txt"), "");
    assert!(full.contains("out.partial") && full.contains("hint: free some space"), "{full}");
    assert!(full.ends_with("1\n") && text("left.txt").contains("llmc.journal"), "{full}");
    ok(here, &format!("{line} whole"));
    for name in ["whole", "freed"] {
        std::fs::remove_file(here.join(name).join("README.md")).unwrap();
    }
    assert_same(&here.join("whole"), &here.join("freed"));
}
