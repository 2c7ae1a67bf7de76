//! Arranging small checkpoints.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::io::RawTensor;
use crate::model::Transform;
use crate::tensor::DType;

fn checkpoint(config: Option<Value>, tensors: &[(&str, &[usize])]) -> Checkpoint {
    let source = |(name, shape): &(&str, &[usize])| {
        let raw = RawTensor {
            name: (*name).into(),
            dtype: DType::BF16,
            shape: shape.to_vec(),
            file: 0,
            range: 0..0,
        };
        ((*name).to_owned(), Source::dense(raw))
    };
    Checkpoint {
        path: PathBuf::from("model"),
        files: Vec::new(),
        tensors: tensors.iter().map(source).collect(),
        config,
        side_files: Vec::new(),
        metadata: Default::default(),
        activation_scales: Default::default(),
        packed: None,
        whole: None,
        quantization: None,
    }
}

fn config(model_type: &str) -> Option<Value> {
    Some(json!({ "model_type": model_type, "num_attention_heads": 2, "num_key_value_heads": 1 }))
}

#[test]
fn experts_are_stacked_in_the_order_of_their_numbers() {
    let expert = |e: usize| format!("model.layers.0.mlp.experts.{e}.up_proj.weight");
    let (zero, one) = (expert(0), expert(1));
    let gate = "model.layers.0.mlp.shared_expert_gate.weight";
    let tensors: [(&str, &[usize]); 3] = [(&one, &[4, 8]), (gate, &[1, 8]), (&zero, &[4, 8])];
    let outputs = arrange(&checkpoint(config("qwen2_moe"), &tensors)).unwrap();
    assert_eq!(
        (outputs[0].name.as_str(), outputs[0].shape.as_slice()),
        ("blk.0.ffn_up_exps.weight", [2, 4, 8].as_slice())
    );
    let sources: Vec<&str> = outputs[0].pieces.iter().map(|piece| piece.source.as_str()).collect();
    assert_eq!(sources, [zero.as_str(), one.as_str()]);
    assert_eq!(outputs[1].shape, [8], "GGUF has the shared expert's gate as a vector");
    let lone: [(&str, &[usize]); 1] = [(&one, &[4, 8])];
    let error = arrange(&checkpoint(config("qwen2_moe"), &lone)).unwrap_err();
    assert!(error.to_string().contains("blk.0.ffn_up_exps.weight"), "{error}");
}

#[test]
fn what_engines_recompute_or_share_is_dropped() {
    let tensors: [(&str, &[usize]); 4] = [
        ("embed_tokens.weight", &[9, 8]),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]),
        ("lm_head.weight", &[9, 8]),
        ("model.norm.weight", &[8]),
    ];
    let names = |config| -> Vec<String> {
        arrange(&checkpoint(config, &tensors)).unwrap().into_iter().map(|output| output.name).collect()
    };
    assert_eq!(names(config("llama")), ["token_embd.weight", "output.weight", "output_norm.weight"]);
    assert_eq!(names(config("gemma")), ["token_embd.weight", "output_norm.weight"]);
}

#[test]
fn queries_and_keys_move_by_their_own_heads() {
    let name = |p: &str| format!("model.layers.0.self_attn.{p}_proj.weight");
    let (q, k) = (name("q"), name("k"));
    let tensors: [(&str, &[usize]); 2] = [(&q, &[16, 8]), (&k, &[8, 8])];
    let outputs = arrange(&checkpoint(config("mistral"), &tensors)).unwrap();
    assert_eq!(outputs[0].transform, Transform::PermuteRope { heads: 2 });
    assert_eq!(outputs[1].transform, Transform::PermuteRope { heads: 1 });
    let odd: [(&str, &[usize]); 1] = [(&q, &[6, 8])];
    assert!(arrange(&checkpoint(config("llama"), &odd)).unwrap_err().to_string().contains(&q));
}

#[test]
fn refusals_say_what_is_known() {
    let refused = |config, tensors: &[(&str, &[usize])], part: &str| {
        let error = arrange(&checkpoint(config, tensors)).unwrap_err();
        assert!(format!("{error} {}", error.hint().unwrap()).contains(part), "{error}");
    };
    refused(None, &[], "config.json");
    refused(config("bert"), &[], "qwen3_moe");
    refused(config("llama"), &[("model.extra.weight", &[2, 2])], "model.extra.weight");
}
