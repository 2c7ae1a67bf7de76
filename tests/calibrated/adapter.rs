//! Adapters that make up for the error of quantization, from outside: what they hold, that they are run, and what is said of
//! adapters that are wrong.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::common::{contents, fails, json, ok, run};
use crate::model::{Model, nll};

const Q_PROJ: &str = "base_model.model.model.layers.0.self_attn.q_proj";

fn quantized(folder: &Path, flags: &str, out: &str) -> Value {
    let line = format!("quantize model --group-size 32 --json -o {out} {flags}");
    json(folder, &line)
}

/// The reports of the linears: seven of each block.
fn linears(report: &Value) -> Vec<&Value> {
    let blocks = report["blocks"].as_array().unwrap();
    let linears: Vec<&Value> = blocks.iter().flat_map(|b| b["linears"].as_array().unwrap()).collect();
    assert!(!blocks.is_empty() && linears.len() == 7 * blocks.len(), "{report}");
    linears
}

fn perplexity(folder: &Path, model: &str) -> f64 {
    nll(folder, model).exp()
}

#[test]
fn of_full_rank_it_gives_the_model_back() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let original = perplexity(here, "model");
    for flags in [
        "--method rtn,lorc --set lorc.rank=4096",
        "--method mse,eora --set eora.rank=4096 --data text.txt --samples 8 --seq-len 128",
    ] {
        let report = quantized(here, &format!("--scheme w3a16 --dtype f32 --overwrite {flags}"), "out");
        for linear in linears(&report) {
            assert!(linear["relative_error"].as_f64().unwrap() > 0.05, "{linear}");
            assert!(linear["compensated_error"].as_f64().unwrap() < 1e-3, "{linear}");
        }
        let (without, with) = (perplexity(here, "out"), perplexity(here, "out --adapter out/adapter"));
        let [without, with] = [without, with].map(|found| (found / original - 1.0).abs());
        assert!(with < 1e-4 && without > 10.0 * with, "{flags}: {without} apart, {with} with the adapter");
        ok(here, "verify out --against model");
    }
}

#[test]
fn every_method_is_made_up_for_in_the_types_of_the_model() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let autoround = "autoround,eora --set autoround.iters=2";
    for method in ["rtn,eora", "gptq,eora", "awq-scale,mse,eora", "rotate,gptq,eora", "gptq,lorc", autoround]
    {
        let flags = format!("--method {method} --data text.txt --samples 4 --seq-len 64 --overwrite");
        let report = quantized(here, &format!("--scheme w4a16 {flags}"), "out");
        for linear in linears(&report) {
            let [codes, both] =
                ["relative_error", "compensated_error"].map(|key| linear[key].as_f64().unwrap());
            assert!(both < codes || method.contains("lorc"), "{method}: {linear}");
        }
        let config: Value =
            serde_json::from_slice(&contents(&here.join("out/adapter"))["adapter_config.json"]).unwrap();
        assert_eq!(config["r"], 32, "{method}");
        assert_eq!(config["lora_alpha"], 32);
        assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
        let bytes = fs::read(here.join("out/adapter/adapter_model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 2 * linears(&report).len());
        let [a, b] = ["A", "B"].map(|half| tensors.tensor(&format!("{Q_PROJ}.lora_{half}.weight")).unwrap());
        assert_eq!((a.shape()[0], b.shape()[1]), (32, 32));
        assert!(matches!(a.dtype(), Dtype::F16 | Dtype::BF16) && a.dtype() == b.dtype());
        assert!(perplexity(here, "out --adapter out/adapter").is_finite(), "{method}");
    }
}

/// Every damage of an adapter is found, with the input and without it; a run without text records it too.
#[test]
fn verify_holds_the_adapter() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    ok(here, "quantize model --scheme w4a16 --group-size 32 --method rtn,lorc --set lorc.rank=4 -o out");
    let lines = ["verify out", "verify out --against model"];
    lines.iter().for_each(|line| drop(ok(here, line)));
    let mut damages = 0;
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let path = here.join("out/adapter").join(name);
        let whole = fs::read(&path).unwrap();
        for at in (0..12).map(|i| i * (whole.len() - 1) / 11) {
            let mut content = whole.clone();
            content[at] ^= 1;
            fs::write(&path, content).unwrap();
            let said = ok_code(here, lines[at % 2], 3);
            assert!(said.contains(name) && said.contains("recorded"), "{name} at {at}: {said}");
            damages += 1;
        }
        fs::remove_file(&path).unwrap();
        lines.iter().for_each(|line| assert!(ok_code(here, line, 3).contains("is missing"), "{name}"));
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(damages, 24);
    // Without the record, an adapter of another model is found by its shapes.
    fs::remove_file(here.join("out/calibration.json")).unwrap();
    assert!(ok_code(here, lines[1], 0).contains("record"));
    let hidden = [2, 8];
    write_adapter(
        &here.join("out/adapter"),
        json!({}),
        &[("lora_A.weight", hidden), ("lora_B.weight", [8, 2])],
    );
    assert!(ok_code(here, lines[0], 3).contains("expected a weight [8, 8]"));
}

/// Runs a command line, expects an exit code, returns stdout.
fn ok_code(folder: &Path, line: &str, code: i32) -> String {
    let output = run(folder, line);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    said
}

#[test]
fn where_there_is_no_place_for_it_that_is_said() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let check = |flags: &str, code: i32, expected: &str| {
        let stderr = fails(here, &format!("quantize model -o out {flags}"), code);
        assert!(stderr.contains(expected), "{flags}: {stderr}");
    };
    check("--scheme q4_0 --method rtn,lorc", 2, "choose a format that writes a folder");
    check("--scheme w4a16 --group-size 32 --method rtn,lorc --format compressed-tensors,gguf", 2, "folder");
    check("--scheme w4a16 --method gptq,eora", 2, "--data");
    check("--scheme w4a16 --method eora,gptq", 2, "makes up for quantization");
}

/// An adapter of q_proj alone, with zeros; what is given is put over its config.
fn write_adapter(folder: &Path, config: Value, tensors: &[(&str, [usize; 2])]) {
    fs::create_dir_all(folder).unwrap();
    let mut whole = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"] });
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::write(folder.join("adapter_config.json"), whole.to_string()).unwrap();
    let zeros = vec![0u8; 1 << 20];
    let views = tensors.iter().map(|(name, shape)| {
        (
            format!("{Q_PROJ}.{name}"),
            TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..4 * shape[0] * shape[1]]).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &folder.join("adapter_model.safetensors")).unwrap();
}

#[test]
fn adapters_that_are_wrong_are_told_by_file_and_module() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let config: Value = serde_json::from_slice(&fs::read(here.join("model/config.json")).unwrap()).unwrap();
    let hidden = config["hidden_size"].as_u64().unwrap() as usize;
    let (a, b) = (("lora_A.weight", [2, hidden]), ("lora_B.weight", [hidden, 2]));
    let line = "eval perplexity model --data text.txt --ctx 64 --chunks 1 --adapter adapter";
    let check = |config: Value, tensors: &[(&str, [usize; 2])], expected: &str| {
        write_adapter(&here.join("adapter"), config, tensors);
        let stderr = fails(here, line, 1);
        assert!(stderr.contains(expected), "{expected:?} is not in {stderr}");
    };
    check(json!({}), &[a], "lora_A and lora_B");
    check(json!({}), &[a, ("lora_B.weight", [hidden, 3])], "lora_B.weight: expected as many columns");
    check(
        json!({}),
        &[a, ("lora_B.weight", [hidden + 1, 2])],
        "layers.0.self_attn.q_proj: expected a weight",
    );
    check(
        json!({}),
        &[a, b, ("lora_magnitude_vector", [hidden, 1])],
        "lora_magnitude_vector is not plain LoRA",
    );
    check(json!({ "peft_type": "IA3" }), &[a, b], "peft_type IA3");
    check(json!({ "use_dora": true }), &[a, b], "DoRA");
    check(json!({ "modules_to_save": ["lm_head"] }), &[a, b], "modules_to_save");
    check(json!({ "r": 0 }), &[a, b], "at least 1");
    check(json!({ "r": "many" }), &[a, b], "adapter_config.json");
    check(json!({ "alpha_pattern": { "(": 1 } }), &[a, b], "alpha_pattern");
    Model::of("tiny-llama").write(here);
    write_adapter(&here.join("adapter"), json!({}), &[a, b]);
    assert_eq!(perplexity(here, "model"), perplexity(here, "model --adapter adapter"));
    fs::remove_file(here.join("adapter/adapter_model.safetensors")).unwrap();
    assert!(fails(here, line, 1).contains("adapter_model.safetensors"));
    fs::remove_dir_all(here.join("adapter")).unwrap();
    assert!(fails(here, line, 1).contains("adapter_config.json"));
}
