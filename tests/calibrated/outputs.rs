//! Several outputs of one run, and rotated models.

use std::path::Path;

use serde_json::Value;

use crate::common::{fails, json, ok, run};
use crate::model::{Model, nll, open, values};

#[test]
fn one_run_makes_several_outputs_of_the_same_codes() {
    let folder = Model::of("tiny-llama").folder();
    let line = "quantize model --scheme w4a16 --group-size 32 --method gptq --data text.txt --samples 4 \
                --seq-len 64 --format compressed-tensors,gptq,gguf --json -o out";
    let reports = json(folder.path(), line);
    let formats: Vec<&Value> = reports.as_array().unwrap().iter().map(|report| &report["format"]).collect();
    assert_eq!(formats, ["compressed-tensors", "gptq", "gguf"]);
    let out = folder.path().join("out");
    let [packed, gptq, gguf] = ["compressed-tensors", "gptq", "model.gguf"].map(|name| open(&out.join(name)));
    assert!(packed.tensors.keys().eq(gptq.tensors.keys()));
    for name in packed.tensors.keys() {
        assert!(values(&packed, name) == values(&gptq, name), "{name}");
    }
    // Blocks of Q4_0 hold the same codes; their scales are f16 instead of bf16.
    let name = "model.layers.1.mlp.down_proj.weight";
    for (ours, theirs) in values(&gguf, name).iter().zip(values(&packed, name)) {
        assert!((ours - theirs).abs() <= 0.004 * theirs.abs(), "{ours}, {theirs}");
    }
    let mut names: Vec<String> = std::fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["compressed-tensors", "gptq", "model.gguf", "model.gguf.calibration.json"]);
    for name in ["compressed-tensors", "gptq", "model.gguf"] {
        ok(folder.path(), &format!("verify out/{name} --against model"));
    }
}

#[test]
fn formats_that_hold_something_else_are_refused_before_any_work() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let check = |flags: &str, expected: &[&str]| {
        for run in ["quantize model --data text.txt -o out", "plan model --data text.txt"] {
            let stderr = fails(here, &format!("{run} {flags}"), 2);
            expected.iter().for_each(|expected| assert!(stderr.contains(expected), "{flags}: {stderr}"));
        }
        assert!(!here.join("out").exists());
    };
    let gguf = ["int4 g32 asymmetric in compressed-tensors", "in gguf", "--symmetric --group-size 32"];
    for method in ["awq", "rotate,gptq", "smoothquant,rtn", "autoround"] {
        let formats = "--format compressed-tensors,gguf";
        check(&format!("--scheme w4a16-asym --group-size 32 --method {method} {formats}"), &gguf);
    }
    check(
        "--scheme w4a16-asym --group-size 128 --method gptq --format awq,compressed-tensors",
        &["int4 g32 asymmetric in awq", "int4 g128 asymmetric in compressed-tensors", "--group-size 32"],
    );
}

#[test]
fn a_format_that_rounds_by_itself_says_so_and_leaves_the_others_calibrated() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let line = "quantize model --scheme w8a16 --asymmetric --group-size 32 --method gptq --data text.txt --samples 4 \
                --seq-len 64 --override *.v_proj*=dense";
    let several = format!("{line} --format gguf,compressed-tensors -o out");
    assert!(fails(here, &format!("{several} --strict"), 1).contains("without gptq"));
    let output = run(here, &several);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("without gptq: gguf does not hold int8"), "{stderr}");
    ok(here, &format!("{line} -o alone"));
    let [found, alone, gguf, model] =
        ["out/compressed-tensors", "alone", "out/model.gguf", "model"].map(|name| open(&here.join(name)));
    for name in alone.tensors.keys() {
        assert!(values(&found, name) == values(&alone, name), "{name}");
    }
    let dense = "model.layers.1.self_attn.v_proj.weight";
    assert!(values(&gguf, dense) == values(&model, dense));
}

#[test]
fn each_output_is_held_against_what_it_stores() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let text = "--data text.txt --samples 4 --seq-len 64";
    // Scales in f32 and in f16, and values in bf16.
    let formats = "--dtype f32 --format compressed-tensors,gptq --scheme w4a16 --group-size 32 --method gptq";
    let dense = "--format dense --scheme w4a16 --group-size 32 --method gptq";
    let rows = "--scheme w8a8 --method smoothquant,rtn";
    for (flags, outputs) in
        [(formats, &["out/compressed-tensors", "out/gptq"][..]), (dense, &["dense"]), (rows, &["rows"])]
    {
        let folder = outputs[0].split('/').next().unwrap();
        ok(here, &format!("quantize model {flags} {text} -o {folder}"));
        for output in outputs {
            ok(here, &format!("verify {output} --against model"));
            let name = "model.layers.1.mlp.down_proj.weight";
            spoil(&here.join(output).join("model.safetensors"), name);
            let output = run(here, &format!("verify {output} --against model"));
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(3), "{flags}: {said}");
            assert!(said.contains(name) && said.contains("is not what was recorded"), "{flags}: {said}");
        }
    }
}

/// Changes the lowest bits of the first byte of a weight's codes, whatever they are called.
fn spoil(path: &Path, name: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let module = name.strip_suffix("weight").unwrap();
    let codes = ["weight", "weight_packed", "qweight"];
    let entry = codes.iter().find_map(|part| entries.get(format!("{module}{part}"))).unwrap();
    bytes[header + entry["data_offsets"][0].as_u64().unwrap() as usize] ^= 3;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_rotated_model_says_the_same_with_a_head_of_its_own() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let before = nll(here, "model");
    let gptq = "--scheme w4a16 --group-size 32 --method rotate,gptq --data text.txt --samples 8 --seq-len 64";
    for (name, flags, tolerance) in
        [("rtn", "--scheme w8a16 --method rotate,rtn", 0.02), ("gptq", gptq, 0.15)]
    {
        ok(here, &format!("quantize model {flags} -o {name}"));
        let config = std::fs::read(here.join(name).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["tie_word_embeddings"], false, "{name}");
        let made = open(&here.join(name));
        let ends = ["model.embed_tokens.weight", "lm_head.weight"];
        let [embedding, head] = ends.map(|tensor| values(&made, tensor));
        assert!(embedding.len() == head.len() && embedding != head, "{name}");
        assert!(values(&made, "model.norm.weight").iter().all(|weight| *weight == 1.0), "{name}");
        let after = nll(here, name);
        assert!((after - before).abs() < tolerance, "{name}: {before} became {after}");
        ok(here, &format!("verify {name} --against model"));
    }
}

#[test]
fn rotated_weights_can_stay_dense() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let recipe = "format = 'dense'\ndtype = 'f32'\n[[stages]]\nmethod = 'rotate'\n";
    std::fs::write(here.join("rotate.toml"), recipe).unwrap();
    ok(here, "run rotate.toml --model model -o rotated");
    let (before, after) = (nll(here, "model"), nll(here, "rotated"));
    assert!((after - before).abs() < 1e-4, "{before} became {after}");
}
