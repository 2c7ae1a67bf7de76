//! Stored forms of rewritten weights: scales that reach over all of them, and numbers that the model's type holds.

use llmc::io::Checkpoint;

use crate::common::{fails, largest, ok};
use crate::model::{Model, open, values};

/// The part of a linear's values that are the largest there is: more than a few were cut off.
fn share_of_largest(checkpoint: &Checkpoint, name: &str) -> f64 {
    let values = values(checkpoint, name);
    let absmax = largest(values.iter().map(|value| value.abs()));
    assert!(absmax > 0.0, "{name} holds nothing but zeros, or NaN");
    values.iter().filter(|value| f64::from(value.abs()) == absmax).count() as f64 / values.len() as f64
}

#[test]
fn scales_of_whole_tensors_are_of_what_stages_have_made_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let loud = |values: &mut [f32], _| values.iter_mut().step_by(16).for_each(|weight| *weight *= 100.0);
    Model::of("tiny-llama").edit("model.layers.0.input_layernorm.weight", loud).write(here);
    for (scheme, stages) in [
        ("fp8-static", &["smoothquant"][..]),
        ("fp8-tensor", &["rotate", "smoothquant", "awq-scale"]),
        ("nvfp4", &["rotate", "smoothquant", "awq-scale"]),
    ] {
        for stage in stages {
            let text = if *stage == "rotate" { "" } else { "--data text.txt --samples 4 --seq-len 64" };
            let line = format!("quantize model --scheme {scheme} --method {stage},rtn {text}");
            ok(here, &format!("{line} --overwrite -o out"));
            let made = open(&here.join("out"));
            for linear in ["q_proj", "k_proj", "v_proj"] {
                let part = share_of_largest(&made, &format!("model.layers.0.self_attn.{linear}.weight"));
                assert!(part < 0.01, "{scheme} after {stage}: {part} of {linear} are the largest value");
            }
        }
    }
}

#[test]
fn values_that_a_stage_makes_too_large_are_not_blamed_on_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let loud = |values: &mut [f32], _| values.fill(6e4);
    let model = Model::of("tiny-qwen2-sharded").edit("model.layers.0.input_layernorm.weight", loud);
    model.edit("model.layers.0.self_attn.q_proj.weight", loud).write(here);
    let line = "quantize model --scheme w8a16 --method rotate,rtn --exclude *.q_proj* -o out";
    let stderr = fails(here, line, 1);
    for expected in ["layers.0.self_attn.q_proj.weight", "rotate, rtn makes values", "as f16", "--dtype bf16"]
    {
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn without_text_no_expert_is_said_to_be_starved() {
    let folder = Model::of("tiny-qwen3-moe").folder();
    let here = folder.path();
    for method in ["rotate,rtn", "rtn,lorc"] {
        let line =
            format!("quantize model --scheme w4a16 --group-size 32 --method {method} --overwrite -o out");
        let said = ok(here, &line);
        assert!(!said.contains("tokens of experts"), "{said}");
        let record = std::fs::read_to_string(here.join("out/calibration.json")).unwrap();
        assert!(!record.contains("shown_all"), "{record}");
    }
}
