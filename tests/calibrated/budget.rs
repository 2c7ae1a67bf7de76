//! Mixed precision: budgets are kept, fused groups stay together, what was measured is used again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{assert_same, fails, json, ok};
use crate::model::Model;

const TEXT: &str = "--data text.txt --samples 6 --seq-len 64";

/// A model of four blocks, of which one has the weights of its attention blown up, so that it minds more.
fn model(folder: &Path) {
    let louder = |values: &mut [f32], _| values.iter_mut().for_each(|w| *w *= 6.0);
    let model = Model::of("tiny-llama").with_blocks(4);
    model.edit("model.layers.2.mlp.down_proj.weight", louder).write(folder);
}

/// The plan of the flags: its JSON.
fn plan(folder: &Path, flags: &str) -> Value {
    let line = format!("quantize model {TEXT} {flags} --dry-run --json -o out");
    json(folder, &line)
}

/// The stored forms of a plan's tensors whose names contain a text.
fn stored(plan: &Value, name: &str) -> BTreeSet<String> {
    let tensors = plan["tensors"].as_array().unwrap();
    let found = tensors.iter().filter(|tensor| tensor["name"].as_str().unwrap().contains(name));
    found.map(|tensor| tensor["stored"].as_str().unwrap().to_owned()).collect()
}

fn bits(plan: &Value) -> f64 {
    plan["quantized_bits_per_weight"].as_f64().unwrap()
}

#[test]
fn budgets_are_kept_and_spent_where_it_matters() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    model(here);
    let groups = "--group-size 32 --method rtn";
    for target in [4.6, 5.5, 8.0] {
        let found = bits(&plan(here, &format!("{groups} --target-bpw {target}")));
        assert!(found <= target && found > target - 0.4, "{target}: {found}");
    }
    let tight = plan(here, &format!("{groups} --target-bpw 4.9"));
    let measured: Value =
        serde_json::from_slice(&fs::read(here.join("out.sensitivity.json")).unwrap()).unwrap();
    let lost = |block: usize| {
        let name = format!("model.layers.{block}.mlp.down_proj.weight");
        measured["sensitivity"][name][0].as_f64().unwrap()
    };
    assert!(lost(2) > 3.0 * lost(3), "{} and, behind it, {}", lost(2), lost(3));
    let generous = plan(here, &format!("{groups} --target-bpw 6.5"));
    assert_eq!(stored(&generous, "layers.2.mlp.down_proj"), ["int8 g32 symmetric".to_owned()].into());
    for group in ["self_attn.q", "self_attn.k", "self_attn.v"].chunks(3) {
        for block in 0..4 {
            let of = |part: &&str| stored(&tight, &format!("layers.{block}.{part}_proj"));
            assert_eq!(group.iter().flat_map(of).collect::<BTreeSet<_>>().len(), 1, "block {block}");
        }
    }
    let small = plan(here, &format!("{groups} --target-bpw 3.6"));
    assert!(bits(&small) <= 3.6 && stored(&small, "proj").iter().any(|scheme| scheme.starts_with("int3")));
    let zero_points = plan(here, &format!("{groups} --scheme w4a16-asym --target-bpw 5.5"));
    assert!(stored(&zero_points, "proj").iter().all(|scheme| scheme.ends_with("g32 asymmetric")));
    assert!(stored(&zero_points, "proj").len() == 2 && bits(&zero_points) <= 5.5);
    let gguf = plan(here, "--scheme q4_k --target-bpw 6 --method rtn");
    assert!(bits(&gguf) <= 6.0 && stored(&gguf, "blk").len() > 1);
    let size = tight["bytes"].as_u64().unwrap() - 10_000;
    let sized = plan(here, &format!("{groups} --target-size {size}"));
    assert!(sized["bytes"].as_u64().unwrap() <= size && bits(&sized) > 4.5);
}

#[test]
fn a_run_is_that_of_its_overrides_and_what_was_measured_stays() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    model(here);
    let line = format!("quantize model {TEXT} --group-size 32 --method gptq --target-bpw 5");
    ok(here, &format!("{line} -o out"));
    let measured = here.join("out.sensitivity.json");
    let kept = fs::read_to_string(&measured).unwrap();
    ok(here, "verify out --against model");
    // The file is used: with other numbers under the same key, another assignment.
    let mut other: Value = serde_json::from_str(&kept).unwrap();
    let mut digest = blake3::Hasher::new();
    for (group, errors) in other["sensitivity"].as_object_mut().unwrap() {
        *errors = serde_json::json!([0.0, 0.0]);
        digest.update(group.as_bytes()).update(&[0; 8]); // two losses in f32
    }
    other["blake3"] = digest.finalize().to_hex().as_str().into();
    fs::write(&measured, other.to_string()).unwrap();
    let unmindful = plan(here, "--group-size 32 --method gptq --target-bpw 5");
    assert_eq!(
        stored(&unmindful, "proj"),
        ["int4 g32 symmetric".to_owned()].into(),
        "all as the first choice"
    );
    // One that is not this command's is not, nor one that was changed.
    for field in ["key", "blake3"] {
        let begin = format!("\"{field}\": \"");
        let changed = kept.replace(&begin, &format!("{begin}0"));
        assert_ne!(changed, kept);
        fs::write(&measured, changed).unwrap();
        ok(here, &format!("{line} -o out --overwrite"));
        assert_eq!(fs::read_to_string(&measured).unwrap(), kept, "{field}");
    }
    ok(here, &format!("{line} -o again"));
    assert_eq!(fs::read_to_string(here.join("again.sensitivity.json")).unwrap(), kept);
    fs::remove_file(here.join("out/README.md")).unwrap(); // names the output
    fs::remove_file(here.join("again/README.md")).unwrap();
    assert_same(&here.join("out"), &here.join("again"));
}

#[test]
fn experts_of_a_layer_stay_together() {
    let folder = Model::of("tiny-qwen3-moe").folder();
    let here = folder.path();
    let found = plan(here, "--group-size 32 --method rtn --target-bpw 5.2");
    for block in 0..2 {
        assert_eq!(stored(&found, &format!("layers.{block}.mlp.experts.")).len(), 1, "block {block}");
    }
    assert!(bits(&found) <= 5.2 && bits(&found) > 4.5);
}

#[test]
fn budgets_that_cannot_be_met_are_refused() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    let check = |flags: &str, expected: &str| {
        let stderr = fails(here, &format!("quantize model --group-size 32 {flags} -o out"), 2);
        assert!(stderr.contains(expected), "{flags}\n{stderr}");
    };
    check("--target-bpw 4.5", "--data");
    check(&format!("{TEXT} --target-bpw 1.5"), "2.57 as w2a16");
    check(&format!("{TEXT} --target-bpw 4 --choices w4a16,w8a16"), "--choices");
    check(&format!("{TEXT} --target-bpw 5 --choices w4a17,w8a16"), "w4a17");
    check(&format!("{TEXT} --bits 4 --choices w4a16"), "--target-bpw");
    check(&format!("{TEXT} --target-bpw 6 --choices w4a16,fp8"), "quantizes inputs too");
    check(&format!("{TEXT} --target-bpw inf"), "bits per weight, or a size");
    check(&format!("{TEXT} --target-bpw 5 --format compressed-tensors,gguf"), "one at a time");
    check(&format!("{TEXT} --target-bpw=-1"), "bits per weight, or a size");
    for (flags, expected) in [("", "--choices"), ("--choices w4a16,w8a8", "inputs otherwise")] {
        let line = format!("quantize model {TEXT} --scheme w8a8 --target-bpw 6 {flags} -o out");
        let stderr = fails(here, &line, 2);
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert!(!here.join("out.sensitivity.json").exists(), "refused before anything is measured");
    fs::write(here.join("out.sensitivity.json"), "notes of mine").unwrap();
    check(&format!("{TEXT} --target-bpw 5"), "in the way");
    fs::create_dir(here.join("out")).unwrap();
    check(&format!("{TEXT} --target-bpw 5"), "exists already");
}

#[test]
fn weights_that_are_not_finite_are_measured_as_they_will_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let spoil = |values: &mut [f32], _: usize| (values[3], values[77]) = (f32::NAN, f32::INFINITY);
    let up = "model.layers.1.mlp.up_proj.weight";
    Model::of("tiny-llama").edit(up, spoil).write(here);
    let line = format!("quantize model {TEXT} --group-size 32 --method rtn --target-bpw 5.5 -o out");
    assert!(fails(here, &line, 1).contains("not finite"));
    ok(here, &format!("{line} --allow-nonfinite --no-resume"));
    let zeroed = here.join("zeroed");
    fs::create_dir(&zeroed).unwrap();
    let zero = |values: &mut [f32], _: usize| (values[3], values[77]) = (0.0, 0.0);
    Model::of("tiny-llama").edit(up, zero).write(&zeroed);
    ok(&zeroed, &line);
    let measured = |folder: &Path| {
        let text = fs::read(folder.join("out.sensitivity.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["sensitivity"].clone()
    };
    assert_eq!(measured(here), measured(&zeroed));
}
