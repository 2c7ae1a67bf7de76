//! The commands as a user meets them: what they print, where, and their exit codes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{contents, fails, fixture, llmc, ok, run, weights, write_checkpoint};
use serde_json::Value;

fn json(folder: &std::path::Path, line: &str) -> Value {
    serde_json::from_str(&ok(folder, line)).unwrap()
}

#[test]
fn every_help_fits_a_screen_and_ends_with_two_examples() {
    let here = tempfile::tempdir().unwrap();
    for command in ["inspect", "plan", "quantize", "convert", "verify", "completions"] {
        let help = ok(here.path(), &format!("{command} -h"));
        assert!(help.lines().count() <= 50, "{command}: {} lines", help.lines().count());
        let examples = help.split("Examples:").nth(1).unwrap_or_default();
        assert_eq!(examples.matches("llmc ").count(), 2, "{command}: {help}");
    }
}

#[test]
fn help_names_every_method_format_and_many_presets() {
    let here = tempfile::tempdir().unwrap();
    let help = ok(here.path(), "quantize --help");
    for method in llmc::method::METHODS {
        assert!(help.contains(method.name), "{}", method.name);
    }
    for format in llmc::export::FORMATS {
        assert!(help.contains(format.name()), "{}", format.name());
    }
    for preset in llmc::numerics::presets::PRESETS {
        assert!(help.contains(preset.name), "{}", preset.name);
    }
}

#[test]
fn quantize_then_verify_on_a_lone_file() {
    let here = tempfile::tempdir().unwrap();
    let tensors = [
        ("layers.0.fc.weight".to_owned(), vec![48, 96], weights(1, 48 * 96)),
        ("layers.0.norm.weight".to_owned(), vec![96], weights(2, 96)),
    ];
    write_checkpoint(&here.path().join("model.safetensors"), &tensors);
    let report = json(here.path(), "quantize --bits 4 model.safetensors --json");
    assert_eq!(report["output"], "model-w4a16");
    assert_eq!(report["quantized"], 1);
    assert_eq!(report["tensors"], 2);
    assert_eq!(report["substituted"], 1, "96 columns are not a multiple of 128");

    let checks = json(here.path(), "verify model-w4a16 --against model.safetensors --json");
    for check in checks["tensors"].as_array().unwrap() {
        assert_eq!(check["mismatches"], 0, "{check}");
        assert!(check["relative_error"].as_f64().unwrap() < 0.15, "{check}");
    }
    assert!(ok(here.path(), "verify model-w4a16").contains("2 of 2 tensors hold"));
}

#[test]
fn verify_sees_a_changed_bit() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let model = model.display();
    ok(here.path(), &format!("quantize {model} --scheme w4a16 -o out"));
    let path = here.path().join("out/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let stderr = fails(here.path(), &format!("verify out --against {model}"), 3);
    assert!(stderr.contains("1 of "), "{stderr}");
}

#[test]
fn the_plan_says_everything_and_touches_nothing() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let model = model.display();
    let plan = json(here.path(), &format!("plan {model} --scheme w4a16 --json"));
    let tensors = plan["tensors"].as_array().unwrap();
    let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert_eq!(plan["bytes"], bytes);
    let left: Vec<&Value> = tensors.iter().filter(|tensor| tensor["quantized"] == false).collect();
    assert!(left.iter().all(|tensor| tensor["note"].is_string()), "each tensor left alone says why");
    let table = ok(here.path(), &format!("quantize {model} --scheme w4a16 --dry-run"));
    assert!(table.contains("model.layers.0.mlp.down_proj.weight") && table.contains("total"));
    assert!(contents(here.path()).is_empty());
}

#[test]
fn strict_refuses_substitutions() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let line = format!("quantize {} --scheme q4_k --strict -o x.gguf", model.display());
    let stderr = fails(here.path(), &line, 1);
    assert!(stderr.contains("cannot be stored as asked"), "{stderr}");
    assert!(contents(here.path()).is_empty());
}

#[test]
fn include_and_exclude() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let model = model.display();
    let stored = |flags: &str, name: &str| {
        let plan = json(here.path(), &format!("plan {model} --scheme w8a16 --json {flags}"));
        let tensors = plan["tensors"].as_array().unwrap().clone();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["stored"].as_str().unwrap().to_owned()
    };
    let down = "model.layers.0.mlp.down_proj.weight";
    assert!(stored("", down).starts_with("int8"));
    assert_eq!(stored("--exclude *.down_proj", down), "bf16");
    assert_eq!(stored("", "model.embed_tokens.weight"), "bf16");
    assert!(stored("--include *embed_tokens*", "model.embed_tokens.weight").starts_with("int8"));
    assert!(
        fails(here.path(), &format!("plan {model} --scheme w8a16 --exclude typo"), 2)
            .contains("matches no tensor")
    );
    assert!(
        fails(here.path(), &format!("plan {model} --scheme w8a16 --include *norm*"), 2)
            .contains("cannot be quantized")
    );
}

#[test]
fn mistakes_get_a_hint_and_exit_code_2() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    let model = model.display();
    let check = |line: String, code: i32, expected: &str| {
        let stderr = fails(here.path(), &line, code);
        assert!(stderr.contains(expected), "{line}: {stderr}");
    };
    check(format!("quantize {model}"), 2, "--bits 4 is a good start");
    check(format!("quantize {model} --scheme w4a17"), 2, "known: ");
    check(format!("quantize {model} --scheme q4_k --format gptq"), 1, "cannot hold q4_k");
    check(format!("quantize {model} --scheme w4a16 --method magic"), 2, "rtn, mse, hqq");
    check(format!("quantize {model} --scheme w4a16 --method hqq --symmetric"), 2, "hqq");
    check(format!("quantize {model} --scheme nvfp4 --group-size 64"), 2, "--group-size");
    check(format!("convert {model} --format awq"), 2, "llmc quantize");
    check("quantize nowhere.safetensors --bits 4".into(), 2, "nowhere.safetensors");
    check("verify nowhere".into(), 2, "nowhere");
    check(format!("--threads 0 inspect {model}"), 2, "--threads");
    assert_eq!(run(here.path(), "quantize --bits 9 x").status.code(), Some(2));
}

#[test]
fn nonfinite_weights_are_named_counted_and_refused() {
    let here = tempfile::tempdir().unwrap();
    let mut values = weights(1, 64 * 64);
    (values[5], values[77], values[4095]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    write_checkpoint(&here.path().join("m.safetensors"), &[("a.fc.weight".to_owned(), vec![64, 64], values)]);
    let stderr = fails(here.path(), "quantize m.safetensors --scheme w8a16 -o out", 1);
    assert!(stderr.contains("a.fc.weight") && stderr.contains("1 NaN and 2 infinities"), "{stderr}");
    let output = run(here.path(), "quantize m.safetensors --scheme w8a16 -o out --allow-nonfinite");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 NaN and 2 infinities"));
    ok(here.path(), "verify out --against m.safetensors");
    let stderr = fails(here.path(), "convert m.safetensors --dtype f16 -o dense", 1);
    assert!(stderr.contains("--allow-nonfinite"), "{stderr}");
}

#[test]
fn quantized_input_is_recognised_and_dequantized_on_request() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    ok(here.path(), &format!("quantize {} --scheme w4a16 --format gptq -o first", model.display()));
    let stderr = fails(here.path(), "quantize first --scheme w8a16 -o second", 1);
    assert!(stderr.contains("quantized already") && stderr.contains("--dequantize"), "{stderr}");
    ok(here.path(), "quantize first --scheme w8a16 --dequantize -o second");
    ok(here.path(), "verify second --against first");
    ok(here.path(), "convert first -o dense");
    let dense = json(here.path(), "inspect dense --json");
    assert!(dense["tensors"].as_array().unwrap().iter().all(|tensor| tensor["stored"] == "bf16"));
}

#[test]
fn a_bare_name_has_its_companions_beside_it() {
    let tiny = fixture("tiny-llama");
    let listed: Value = json(&tiny, "inspect --json model.safetensors");
    assert!(listed.to_string().contains("llama"), "{listed}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let here = tempfile::tempdir().unwrap();
    let mut child = llmc(here.path())
        .args(["inspect", &fixture("tiny-llama").display().to_string()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
