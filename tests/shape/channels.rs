//! Channels of every kind of network: without effect they go first, of each expert its own, and stacks of experts are cut too.

use std::path::Path;

use llmc::io::Checkpoint;

use super::common::{self, fixture, ok, text_folder};
use super::{DATA, assert_close, config, logits, numbers, shape, surgery, with_tokenizer, zero};

/// Every other channel of each network of a model becomes idle, in another order for each: nothing reads it. Returns which ones are,
/// by the name of the linear behind them.
fn with_idle_channels(model: &Path) -> Vec<(String, Vec<bool>)> {
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let ends = ["mlp.c_proj.weight", "down_proj.weight", "w2.weight"];
    let is_down = |name: &&String| !name.contains("shared") && ends.iter().any(|end| name.ends_with(end));
    let make_idle = |(number, name): (usize, &String)| {
        let transposed = name.ends_with("c_proj.weight");
        let is_idle = |channel: usize| (channel + number).is_multiple_of(2);
        zero(&mut bytes, name, |row, col| is_idle(if transposed { row } else { col }));
        let width = checkpoint.source(name).unwrap().shape[usize::from(!transposed)];
        (name.clone(), (0..width).map(is_idle).collect())
    };
    let idle = checkpoint.tensors.keys().filter(is_down).enumerate().map(make_idle).collect();
    std::fs::write(path, bytes).unwrap();
    idle
}

/// The channels that stay of each network, in the order of the names of their linears: of layers, and of experts below ten.
fn channels_that_stay(surgery: &toml::Table) -> Vec<Vec<usize>> {
    let lists = |key: &str| surgery.get(key).and_then(|list| list.as_array().cloned()).unwrap_or_default();
    let (layers, experts) = (lists("channels"), lists("expert_channels"));
    let of = |list: Option<&toml::Value>| match list {
        Some(toml::Value::Array(experts)) => experts.clone(),
        Some(one) if one.as_str() != Some("") => vec![one.clone()],
        _ => Vec::new(),
    };
    let each = (0..layers.len().max(experts.len()))
        .flat_map(|at| [of(layers.get(at)), of(experts.get(at))].concat());
    each.map(|text| numbers(text.as_str().unwrap())).collect()
}

/// Channels without effect go, each expert's own, and the outputs stay as they were.
#[test]
fn channels_without_effect_go_first_and_change_nothing() {
    let folder = text_folder();
    let here = folder.path();
    for (name, ffn, sizes) in [
        ("models/gpt2", "27", [("n_inner", 27)].as_slice()),
        ("models/mixtral", "11", &[("intermediate_size", 11)]),
        ("models/olmoe-norm", "7", &[("intermediate_size", 7)]),
        (
            "models/qwen2_moe",
            "0.5",
            &[
                ("moe_intermediate_size", 7),
                ("intermediate_size", 21),
                ("shared_expert_intermediate_size", 30),
            ],
        ),
        ("models/qwen3_moe", "0.5", &[("moe_intermediate_size", 7), ("intermediate_size", 21)]),
    ] {
        let idle = with_idle_channels(&with_tokenizer(&fixture(name), here));
        let before = logits(here, "model").unwrap();
        let set = format!("--set width.ffn={ffn} --set width.multiple=1 --expert-tokens 1");
        ok(here, &format!("prune model --method width {set} {DATA} -o out --overwrite"));
        ok(here, "verify out --against model");
        assert_close(&before, &logits(here, "out").unwrap(), name);
        let found = config(&here.join("out"));
        sizes.iter().for_each(|(key, size)| assert_eq!(found[*key], *size, "{name} {key}"));
        let stays = channels_that_stay(&surgery(&here.join("out")));
        assert_eq!(stays.len(), idle.len(), "{name}");
        for ((linear, idle), stays) in idle.iter().zip(&stays) {
            let gone: Vec<usize> = (0..idle.len()).filter(|channel| !stays.contains(channel)).collect();
            assert!(!gone.is_empty() && gone.iter().all(|channel| idle[*channel]), "{linear}: {stays:?}");
        }
    }
}

/// A mixture of experts as GGUF, its experts in stacks, and refusals of what its config.json could not say.
#[test]
fn experts_lose_channels_in_stacks_too() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-qwen3-moe").display().to_string();
    ok(here, &format!("convert {model} -o whole.gguf"));
    let set = "--set width.ffn=24 --set width.multiple=8";
    for (input, output) in [(model.as_str(), "out"), ("whole.gguf", "out.gguf"), ("whole.gguf", "from-gguf")]
    {
        ok(here, &format!("prune {input} --method width {set} {DATA} -o {output}"));
        ok(here, &format!("verify {output} --against {input}"));
    }
    assert_eq!(config(&here.join("out"))["moe_intermediate_size"], 24);
    assert_eq!(shape(&here.join("out"), "model.layers.1.mlp.experts.7.down_proj.weight"), [64, 24]);
    let [folder, gguf] = ["from-gguf", "out.gguf"].map(|model| logits(here, model).unwrap());
    assert_close(&folder, &gguf, "GGUF");
    let said = ok(here, &format!("prune {model} --method width {set} {DATA} --dry-run"));
    assert!(said.contains("24 of 32 channels of each expert"), "{said}");
    let set = "--set experts.keep=6 --set width.ffn=24 --set width.multiple=8";
    ok(here, &format!("prune {model} --method experts,width {set} {DATA} -o both"));
    ok(here, &format!("verify both --against {model}"));
    let experts = |channels: &str| format!("[{}]", [channels; 8].join(", "));
    for (layers, words) in [
        (vec![experts("\"0-7\"")], "not as many as the model has"),
        (vec![experts("\"0-7\""), "[\"0-7\"]".into()], "not as many as the model has"),
        (vec![experts("\"0-7\""), experts("\"0-8\"")], "differ in number between experts"),
        (vec![experts("\"0-7\""), experts("\"25-32\"")], "channels of experts 32, of a model that has 32"),
    ] {
        let text = format!("format = \"dense\"\n[[surgery]]\nexpert_channels = [{}]\n", layers.join(", "));
        std::fs::write(here.join("wrong.toml"), text).unwrap();
        let output = common::run(here, &format!("run wrong.toml --model {model} -o x"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
    }
}
