//! Experts that the router sends no token to.

use std::path::Path;

use llmc::io::Checkpoint;
use serde_json::{Value, json};

use crate::common::{json, ok};
use crate::model::Model;

/// The expert that no token reaches.
const UNSEEN: usize = 7;

/// A family of models, with the names of its experts and router.
struct Family {
    model: fn() -> Model,
    experts: &'static str,
    router: &'static str,
    linears: [&'static str; 3],
}

const QWEN3: Family = Family {
    model: || Model::of("tiny-qwen3-moe"),
    experts: "model.layers.0.mlp.experts",
    router: "model.layers.0.mlp.gate.weight",
    linears: ["gate_proj", "up_proj", "down_proj"],
};
const MIXTRAL: Family = Family {
    model: || Model::of("tiny-qwen3-moe").into_mixtral(),
    experts: "model.layers.0.block_sparse_moe.experts",
    router: "model.layers.0.block_sparse_moe.gate.weight",
    linears: ["w1", "w3", "w2"],
};

/// Of the router's eight rows two are the opposites of two others, and the last is zero: whatever the input, two of those
/// four logits are above the last one's, and two experts are chosen.
fn material(folder: &Path, family: &Family) {
    let router = |values: &mut [f32], cols: usize| {
        for (row, opposite) in [(0, 2), (1, 3)] {
            (0..cols).for_each(|col| values[opposite * cols + col] = -values[row * cols + col]);
        }
        values[UNSEEN * cols..].fill(0.0);
    };
    (family.model)().edit(family.router, router).write(folder);
}

fn check(folder: &Path, family: &Family, method: &str, expert_tokens: u64) {
    let name = &method[..3];
    let line = format!(
        "quantize model --scheme w4a16 --group-size 32 --data text.txt --samples 8 --seq-len 48 --json -o {name} \
         --method {method} --set calibration.expert_tokens={expert_tokens}"
    );
    let report = json(folder, &line);
    let block = &report["blocks"][0];
    assert_eq!(block["experts"].as_array().unwrap().len(), 8, "{name}");
    let mut sent = 0;
    for (index, expert) in block["experts"].as_array().unwrap().iter().enumerate() {
        let tokens = expert["tokens"].as_u64().unwrap();
        assert_eq!(tokens == 0, index == UNSEEN, "{name}: {expert}");
        let shown_all = tokens == 0 || tokens < expert_tokens;
        assert_eq!(*expert, json!({ "expert": index, "tokens": tokens, "shown_all": shown_all }), "{name}");
        sent += tokens;
    }
    assert_eq!(sent, 8 * 48 * 2, "{name}: each token goes to two experts");
    let errors = block["linears"].as_array().unwrap().iter().map(|linear| &linear["relative_error"]);
    let errors: Vec<f64> = errors.filter_map(Value::as_f64).collect();
    let linears = block["linears"].as_array().unwrap().len();
    assert!(
        errors.len() == linears || method.ends_with("rtn"),
        "{name}: {} of {linears} errors",
        errors.len()
    );
    assert!(errors.iter().all(|error| (1e-3..0.5).contains(error)), "{name}: {errors:?}");

    ok(folder, &format!("verify {name}"));
    ok(folder, &format!("verify {name} --against model"));
    let made = Checkpoint::open(folder.join(name).to_str().unwrap()).unwrap();
    for linear in family.linears {
        let source = made.source(&format!("{}.{UNSEEN}.{linear}.weight", family.experts)).unwrap();
        let codes = made.read_codes(source, 0..source.shape[0]).unwrap().expect("quantized");
        let values = codes.values();
        assert!(values.iter().all(|value| value.is_finite()), "{name} {linear}");
        assert!(values.iter().any(|value| *value != 0.0), "{name} {linear}");
    }
}

#[test]
fn an_expert_without_tokens_is_shown_all_of_them_and_reported() {
    for family in [QWEN3, MIXTRAL] {
        let folder = tempfile::tempdir().unwrap();
        material(folder.path(), &family);
        for method in ["gptq", "awq", "smoothquant,rtn", "autoround --set autoround.iters=2"] {
            check(folder.path(), &family, method, 128);
        }
    }
}

#[test]
fn an_expert_without_tokens_has_scales_of_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    material(folder.path(), &QWEN3);
    for (method, name) in [("rtn", "a"), ("gptq", "b")] {
        let line = format!(
            "quantize model --scheme w8a8-static --method {method} --data text.txt --samples 8 --seq-len 48 -o {name}"
        );
        ok(folder.path(), &line);
        let made = Checkpoint::open(folder.path().join(name).to_str().unwrap()).unwrap();
        let scale = |expert: usize, linear: &str| {
            let name = format!("model.layers.0.mlp.experts.{expert}.{linear}.input_scale");
            made.activation_scale(&name).unwrap()
        };
        assert!(made.activation_scales.keys().all(|name| made.activation_scale(name).unwrap() > 1e-4));
        // What all tokens have, the others have at most.
        assert!((0..8).all(|expert| scale(expert, "up_proj") <= scale(UNSEEN, "up_proj")), "{method}");
        assert_eq!(scale(UNSEEN, "gate_proj"), scale(UNSEEN, "up_proj"));
    }
}

#[test]
fn where_few_tokens_are_enough_none_are_not() {
    let folder = tempfile::tempdir().unwrap();
    material(folder.path(), &QWEN3);
    check(folder.path(), &QWEN3, "gptq", 0);
}
