//! The commands as a user meets them: what they print, where, and their exit codes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{contents, fails, fixture, json, llmc, ok, run, weights, write_checkpoint};
use serde_json::Value;

#[test]
fn every_help_fits_a_screen_and_ends_with_two_examples() {
    let here = tempfile::tempdir().unwrap();
    let plain =
        ["inspect", "plan", "quantize", "prune", "convert", "verify", "generate", "bench", "completions"];
    let lists = ["chat", "schemes", "recipes", "cache"];
    let others = ["calibrate", "run", "eval", "eval perplexity", "eval logits"];
    for command in plain.into_iter().chain(lists).chain(others) {
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
    for method in llmc::registry::METHODS {
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
    let [quantized, norm] = checks["tensors"].as_array().unwrap().as_slice() else { panic!("{checks}") };
    for (check, error) in [(quantized, 0.01..0.15), (norm, 0.0..0.01)] {
        assert_eq!(check["mismatches"], 0, "{check}");
        assert!(error.contains(&check["relative_error"].as_f64().unwrap()), "{check}");
    }
    assert!(ok(here.path(), "verify model-w4a16").contains("2 of 2 tensors can be read"));
}

#[test]
fn shapes_that_a_format_cannot_hold_are_told_with_what_would() {
    let here = tempfile::tempdir().unwrap();
    let tensors = [
        ("layers.0.up.weight".to_owned(), vec![301, 132], weights(1, 301 * 132)),
        ("layers.0.down.weight".to_owned(), vec![132, 301], weights(2, 132 * 301)),
    ];
    write_checkpoint(&here.path().join("model.safetensors"), &tensors);
    let said = |flags: &str| fails(here.path(), &format!("quantize model.safetensors {flags} -o out"), 1);
    let nvfp4 = said("--scheme nvfp4");
    assert!(
        nvfp4.contains("none of the 2 linears") && nvfp4.contains("301 columns are not a multiple of 16"),
        "{nvfp4}"
    );
    assert!(nvfp4.contains("132 columns") && !nvfp4.contains("llmc plan"), "{nvfp4}");
    let hint = "compressed-tensors takes these shapes with --scheme w4a16, w8a16, fp8, w8a8";
    assert!(nvfp4.contains(hint), "{nvfp4}");
    for flags in ["--scheme w4a16 --format gptq", "--scheme w4a16-asym --format awq"] {
        let refused = said(flags);
        assert!(refused.contains("another --format may (compressed-tensors"), "{flags}: {refused}");
    }
    // What the hint names works.
    for scheme in ["w4a16", "w8a16", "fp8", "w8a8"] {
        let report =
            json(here.path(), &format!("quantize model.safetensors --scheme {scheme} -o {scheme} --json"));
        assert_eq!(report["quantized"], 2, "{scheme}");
    }
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
    let said = left.iter().all(|tensor| tensor["note"].is_string());
    assert!(said && !left.is_empty(), "each tensor left alone says why");
    let table = ok(here.path(), &format!("quantize {model} --scheme w4a16 --dry-run"));
    assert!(table.contains("model.layers.{0,1}.mlp.down_proj.weight") && table.contains("total"));
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

    // The refused plan is printed, and with no other error.
    let printed = |line: &str| String::from_utf8(run(here.path(), line).stdout).unwrap();
    let refused = printed(&line);
    let marked = refused.lines().filter(|line| line.ends_with("! 1")).count();
    assert!(marked > 0 && refused.contains("\n  1  160 columns"), "{refused}");
    std::fs::write(here.path().join("x.gguf"), "in the way").unwrap();
    let line = format!("quantize {} --scheme q8_0 --strict -o x.gguf", model.display());
    assert!(fails(here.path(), &line, 2).contains("exists already") && printed(&line).is_empty());
}

#[test]
fn a_device_needs_a_text_to_run_over() {
    let here = tempfile::tempdir().unwrap();
    let line = format!("quantize {} --bits 4 --device candle -o out", fixture("tiny-llama").display());
    let stderr = fails(here.path(), &line, 2);
    assert!(stderr.contains("--device candle without a text") && stderr.contains("--data"), "{stderr}");
    assert!(contents(here.path()).is_empty());
    std::fs::write(here.path().join("r.toml"), "scheme = \"w8a16\"\n").unwrap();
    let line = format!("run r.toml --model {} --device candle -o out", fixture("tiny-llama").display());
    let stderr = fails(here.path(), &line, 2);
    assert!(stderr.contains("--device candle without a text"), "{stderr}");
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

/// The entry of a tensor in a plan: (stored, note, substituted).
fn planned(plan: &Value, name: &str) -> (String, String, bool) {
    let tensors = plan["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
    let text = |key: &str| tensor[key].as_str().unwrap_or_default().to_owned();
    (text("stored"), text("note"), tensor["substituted"] == true)
}

#[test]
fn what_engines_fuse_is_dense_together() {
    let here = tempfile::tempdir().unwrap();
    let attention =
        |name: &str, rows| (format!("layers.0.attn.{name}.weight"), vec![rows, 64], weights(1, rows * 64));
    let tensors = [("q_proj", 64), ("k_proj", 40), ("v_proj", 40), ("o_proj", 64)]
        .map(|(name, rows)| attention(name, rows));
    write_checkpoint(&here.path().join("m.safetensors"), &tensors);
    let line = "plan m.safetensors --scheme w4a16 --group-size 64 --format gptq --json";
    let plan = json(here.path(), line);
    let (stored, note, substituted) = planned(&plan, "layers.0.attn.q_proj.weight");
    assert_eq!((stored.as_str(), substituted), ("bf16", true));
    assert_eq!(note, "as layers.0.attn.k_proj.weight, with which engines fuse it");
    assert!(planned(&plan, "layers.0.attn.k_proj.weight").1.contains("40×64"));
    assert_eq!(planned(&plan, "layers.0.attn.o_proj.weight").0, "int4 g64 symmetric");
    let plan = json(here.path(), &format!("{line} --exclude *k_proj --exclude *v_proj"));
    assert_eq!(planned(&plan, "layers.0.attn.q_proj.weight").0, "int4 g64 symmetric", "as the user says");
    let (_, note, substituted) = planned(&plan, "layers.0.attn.k_proj.weight");
    assert!(note.contains("excluded; engines that fuse it with layers.0.attn.q_proj.weight") && !substituted);
}

#[test]
fn experts_of_a_layer_share_a_scheme() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-qwen3-moe");
    let plan = json(here.path(), &format!("plan {} --scheme w4a16 --json", model.display()));
    let of = |name: &str| planned(&plan, &format!("model.layers.0.{name}.weight"));
    assert_eq!(of("mlp.experts.0.down_proj").0, "int4 g32 symmetric");
    let (stored, note, substituted) = of("mlp.experts.5.gate_proj");
    assert_eq!((stored.as_str(), substituted), ("int4 g32 symmetric", true));
    assert_eq!(note, "as model.layers.0.mlp.experts.0.down_proj.weight, with which engines fuse it");
    assert_eq!(of("self_attn.q_proj").0, "int4 g64 symmetric");
}

#[test]
fn experts_without_a_common_group_have_a_scale_per_row() {
    let here = tempfile::tempdir().unwrap();
    let expert =
        |name: &str, cols| (format!("experts.0.{name}.weight"), vec![32, cols], weights(1, 32 * cols));
    let tensors = [("w1", 96), ("w2", 100), ("w3", 96)].map(|(name, cols)| expert(name, cols));
    write_checkpoint(&here.path().join("m.safetensors"), &tensors);
    let plan = json(here.path(), "plan m.safetensors --scheme w4a16 --json");
    for name in ["w1", "w2", "w3"] {
        let (stored, note, substituted) = planned(&plan, &format!("experts.0.{name}.weight"));
        assert_eq!((stored.as_str(), substituted), ("int4 channel symmetric", true), "{name}: {note}");
    }
}

#[test]
fn a_group_size_without_a_fast_kernel_is_kept_and_noted() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama");
    for (size, noted) in [(1, true), (20, true), (32, false)] {
        let line = format!("plan {} --scheme w4a16 --group-size {size} --json", model.display());
        let plan = json(here.path(), &line);
        let (stored, note, substituted) = planned(&plan, "model.layers.0.self_attn.q_proj.weight");
        assert_eq!((stored, substituted), (format!("int4 g{size} symmetric"), false));
        assert_eq!(note.contains("fast kernels"), noted, "{note}");
    }
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
    check(format!("quantize {model} --scheme w4a17"), 2, "did you mean w4a16?");
    check(format!("quantize {model} --scheme q4_k --format gptq"), 1, "cannot hold q4_k");
    check(format!("quantize {model} --scheme w4a16 --method sorcery"), 2, "rtn, mse, hqq");
    check(format!("quantize {model} --scheme w4a16 --method hqq --symmetric"), 2, "hqq");
    check(format!("quantize {model} --scheme w4a16 --method hqq"), 2, "--asymmetric");
    check(format!("quantize {model} --scheme nvfp4 --group-size 64"), 2, "--group-size");
    check(format!("convert {model} --format awq"), 2, "llmc quantize");
    check("quantize nowhere.safetensors --bits 4".into(), 1, "nowhere.safetensors");
    check("verify nowhere".into(), 1, "nowhere");
    check(format!("--threads 0 inspect {model}"), 2, "--threads");
    for bits in [7, 9] {
        let output = run(here.path(), &format!("quantize --bits {bits} x"));
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("[possible values: 2, 3, 4, 5, 6, 8]"), "{stderr}");
    }
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
    let tensors = dense["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty() && tensors.iter().all(|tensor| tensor["stored"] == "bf16"));
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

#[test]
fn a_format_with_one_group_size_gets_the_largest_that_fits_all() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        format!("plan {} --scheme w4a16 --asymmetric --format awq --json", fixture("tiny-llama").display());
    let plan = json(folder.path(), &line);
    let linears: Vec<&Value> =
        plan["tensors"].as_array().unwrap().iter().filter(|t| t["quantized"] == true).collect();
    assert_eq!(linears.len(), 14, "none is left dense");
    for linear in linears {
        assert_eq!(linear["stored"], "int4 g32 asymmetric", "160 columns are not a multiple of 64 or 128");
        assert!(
            linear["substituted"] == true && linear["note"].as_str().unwrap().contains("one size for all")
        );
    }
}
