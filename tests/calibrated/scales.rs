//! Static scales: what transformers computes on the same tokens, divided by the largest code; what reading them back does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use llmc::io::Checkpoint;
use llmc::pipeline::{self, CalibrationInput, Options, Target};
use llmc::recipe::{Calibration, PerFormat, Recipe};
use serde_json::{Value, json};

use crate::common::{contents, fails, fixture, ok};
use crate::model::{Model, perplexity};

/// A recipe that is calibrated on what the test gives.
fn recipe(scheme: Option<&str>, kv_cache: &str) -> Recipe {
    let calibration = Calibration { data: vec!["tokens".into()], ..Calibration::default() };
    let (scheme, kv_cache) = (scheme.map(str::to_owned), Some(kv_cache.to_owned()));
    Recipe { scheme, kv_cache, calibration: Some(calibration), ..Recipe::default() }
}

/// Carries a recipe out on a fixture and these tokens.
fn make(model: &str, recipe: &Recipe, sequences: &[Vec<u32>], out: &Path) {
    let checkpoint = Arc::new(Checkpoint::open(fixture(model).to_str().unwrap()).unwrap());
    let plan = recipe.plan(&checkpoint).unwrap();
    let target = PerFormat::alone(Target { plan: &plan, path: out, documents: &[] });
    let input = CalibrationInput { sequences, ..CalibrationInput::default() };
    let options = Options {
        device: llmc::backend::Device::Cpu,
        resume: false,
        interrupted: &AtomicBool::new(false),
        progress: &ProgressBar::hidden(),
        events: &|_| {},
    };
    pipeline::run(&target, &checkpoint, Some(input), &options).unwrap();
}

/// The scales of an output, by name.
fn scales(out: &Path) -> BTreeMap<String, f32> {
    let made = Checkpoint::open(out.to_str().unwrap()).unwrap();
    let scale = |name: &String| (name.clone(), made.activation_scale(name).unwrap());
    made.activation_scales.keys().map(scale).collect()
}

/// The expected scales, by the golden's largest magnitudes: of inputs (where there are codes), keys and values.
fn expected(golden: &Value, input: Option<f64>, cache: f64) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let inputs = golden["inputs"].as_object().unwrap();
    let attention = inputs
        .keys()
        .filter(|name| ["k_proj", "qkv_proj", "query_key_value"].iter().any(|made| name.ends_with(made)));
    for (block, name) in attention.enumerate() {
        let module = name.rsplit_once('.').unwrap().0;
        for (kind, scale) in [("keys", "k_scale"), ("values", "v_scale")] {
            all.insert(format!("{module}.{scale}"), golden[kind][block].as_f64().unwrap() / cache);
        }
    }
    for (name, absmax) in inputs.iter().filter(|_| input.is_some()) {
        all.insert(format!("{name}.input_scale"), absmax.as_f64().unwrap() / input.unwrap());
    }
    all
}

#[test]
fn scales_are_of_what_transformers_computes() {
    let goldens = std::fs::read(fixture("scales/goldens.json")).unwrap();
    let goldens: Value = serde_json::from_slice(&goldens).unwrap();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(goldens["sequences"].clone()).unwrap();
    for (model, golden) in goldens["models"].as_object().unwrap() {
        for (scheme, input, kv_cache, cache) in [
            (Some("w8a8-static"), Some(127.0), "fp8", 448.0),
            (Some("fp8-static"), Some(448.0), "int8", 127.0),
            (Some("w8a16"), None, "int8", 127.0),
            (None, None, "fp8", 448.0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            make(model, &recipe(scheme, kv_cache), &sequences, &out);
            let (found, expected) = (scales(&out), expected(golden, input, cache));
            assert!(found.keys().eq(expected.keys()), "{model} {scheme:?}: {:?}", found.keys());
            for (name, found) in found {
                let apart = (f64::from(found) / expected[&name] - 1.0).abs();
                assert!(apart < 1e-4, "{model} {scheme:?} {name}: {found}, {}", expected[&name]);
            }
        }
    }
}

const SMALL: &str = "--data text.txt --samples 4 --seq-len 32 --quiet";

/// A small model, and outputs of it.
fn material(outputs: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = Model::of("tiny-llama").folder();
    for (name, flags) in outputs {
        ok(folder.path(), &format!("quantize model {flags} {SMALL} -o {name}"));
    }
    folder
}

fn config(out: &Path) -> Value {
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    config["quantization_config"].clone()
}

#[test]
fn the_config_says_what_engines_are_to_do() {
    let folder = material(&[
        ("int8", "--scheme w8a8-static --kv-cache int8"),
        ("fp8", "--scheme fp8-static --set kv_cache=fp8"),
        ("cache", "--kv-cache fp8"),
    ]);
    let tensor = |number: &str| {
        json!({ "num_bits": 8, "type": number, "symmetric": true, "strategy": "tensor", "group_size": null,
                "block_structure": null, "dynamic": false, "actorder": null, "observer": "minmax",
                "observer_kwargs": {} })
    };
    for (name, number, format, strategy) in
        [("int8", "int", "int-quantized", "channel"), ("fp8", "float", "float-quantized", "tensor")]
    {
        let config = config(&folder.path().join(name));
        let group = &config["config_groups"]["group_0"];
        assert_eq!(group["input_activations"], tensor(number), "{name}");
        assert_eq!([&group["weights"]["strategy"], &group["format"]], [strategy, format], "{name}");
        assert_eq!(config["kv_cache_scheme"], tensor(number), "{name}");
    }
    let config = config(&folder.path().join("cache"));
    assert_eq!(config["kv_cache_scheme"], tensor("float"));
    assert_eq!((&config["config_groups"], &config["format"]), (&json!({}), &json!("dense")));
}

#[test]
fn outputs_are_read_back_without_their_scales() {
    let folder = material(&[
        ("static", "--scheme w8a8-static --method mse --kv-cache fp8"),
        ("dynamic", "--scheme w8a8 --method mse"),
        ("cache", "--kv-cache fp8"),
    ]);
    let here = folder.path();
    for (name, of) in [("static", "dynamic"), ("cache", "model")] {
        ok(here, &format!("verify {name}"));
        ok(here, &format!("verify {name} --against model"));
        for (model, to) in [(name, "a"), (of, "b")] {
            ok(here, &format!("convert {model} --format dense -o {to} --overwrite --quiet"));
        }
        let names = |to: &str| {
            let made = Checkpoint::open(here.join(to).to_str().unwrap()).unwrap();
            made.tensors.into_keys().collect::<BTreeSet<String>>()
        };
        assert_eq!(names("a"), names("b"), "{name}");
        let [a, b] = ["a", "b"].map(|to| contents(&here.join(to)));
        assert!(a["config.json"] == b["config.json"], "{name}");
        let nll =
            |model: &str| perplexity(here, &format!("{model} --chunks 2"))["nll"]["value"].as_f64().unwrap();
        assert_eq!(nll(name), nll(of), "{name}");
    }
    ok(here, &format!("quantize cache --scheme w4a16 --group-size 32 {SMALL} -o again"));
    assert!(scales(&here.join("again")).is_empty());
    let twice = fails(here, &format!("quantize static --kv-cache fp8 {SMALL} -o twice"), 1);
    assert!(twice.contains("quantized already"), "{twice}");
}

#[test]
fn verify_sees_a_scale_that_was_changed() {
    let folder = material(&[("out", "--scheme fp8-static --kv-cache fp8")]);
    let here = folder.path();
    let file = here.join("out/model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for name in ["model.layers.1.self_attn.v_scale", "model.layers.0.mlp.up_proj.input_scale"] {
        let made = Checkpoint::open(here.join("out").to_str().unwrap()).unwrap();
        let at = made.activation_scales[name].range.clone();
        for (value, alone) in [(0.0f32, 3), (f32::NAN, 3), (0.5, 0)] {
            let mut bytes = whole.clone();
            bytes[at.clone()].copy_from_slice(&value.to_le_bytes());
            std::fs::write(&file, bytes).unwrap();
            let code = |line: &str| crate::common::run(here, line).status.code().unwrap();
            assert_eq!(code("verify out --against model"), 3, "{name} {value}");
            assert_eq!(code("verify out"), alone, "{name} {value}");
        }
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = material(&[]);
    let check = |flags: &str, code: i32, expected: &str| {
        let error = fails(folder.path(), &format!("quantize model {flags} -o out"), code);
        assert!(error.contains(expected), "{flags}: {error}");
    };
    check("--scheme w8a8-static", 2, "w8a8-static: its scales are measured on text");
    check("--scheme w4a16 --kv-cache fp8", 2, "--data");
    check(&format!("--scheme q8_0 --kv-cache fp8 {SMALL}"), 2, "compressed-tensors has");
    check(&format!("--scheme w4a16 --set kv_cache=fp4 {SMALL}"), 2, "did you mean fp8?");
    check(&format!("--scheme w8a8-static --include *embed* {SMALL}"), 1, "in no decoder block");
}
