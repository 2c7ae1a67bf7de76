//! Names and settings of every listed architecture.

use serde_json::json;

use super::*;

#[test]
fn names_go_both_ways_in_every_architecture() {
    for arch in ARCHITECTURES {
        for row in arch.names.iter().copied().flatten() {
            let numbers = Numbers { block: Some(7), part: Some(0) };
            let gguf = names::fill(row.gguf, numbers, "weight");
            let content = arch.content(&gguf).expect("a table's own name");
            let place = arch.place(&content.hf_name(0)).expect("a table's own name");
            assert_eq!(place, Place { name: gguf, part: row.is_stacked().then_some(0) });
        }
    }
}

#[test]
fn experts_are_parts_of_a_stack() {
    let place = llama::MIXTRAL.place("model.layers.2.block_sparse_moe.experts.5.w3.weight");
    assert_eq!(place, Some(Place { name: "blk.2.ffn_up_exps.weight".into(), part: Some(5) }));
    let content = qwen::QWEN3_MOE.content("blk.0.ffn_gate_exps.weight").expect("a known name");
    assert_eq!(content.hf_name(9), "model.layers.0.mlp.experts.9.gate_proj.weight");
}

#[test]
fn models_are_found_by_either_name() {
    let found = |model_type: &str| find_hf(&json!({ "model_type": model_type })).map(|arch| arch.gguf);
    assert_eq!(found("mistral"), Some("llama"));
    assert_eq!(found("gemma3_text"), Some("gemma3"));
    assert_eq!(found("bert"), None);
    let rebuilt = |name, experts| find_gguf(name, experts).map(|arch| arch.models[0].0);
    assert_eq!(rebuilt("llama", false), Some("llama"));
    assert_eq!(rebuilt("llama", true), Some("mixtral"));
    assert_eq!(rebuilt("qwen2", false), Some("qwen2"));
    assert_eq!(rebuilt("bert", false), None);
}

#[test]
fn transforms_follow_the_family() {
    let q = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(llama::LLAMA.transform(q, 9, 3), Transform::PermuteRope { heads: 9 });
    let k = "model.layers.0.self_attn.k_proj.bias";
    assert_eq!(llama::LLAMA.transform(k, 9, 3), Transform::PermuteRopeBias { heads: 3 });
    assert_eq!(qwen::QWEN2.transform(q, 9, 3), Transform::None);
    assert_eq!(gemma::GEMMA3.transform("model.norm.weight", 8, 4), Transform::AddOne);
    let k_norm = "model.layers.3.self_attn.k_norm.weight";
    assert_eq!(gemma::GEMMA3.transform(k_norm, 8, 4), Transform::AddOne);
    assert_eq!(qwen::QWEN3.transform(k_norm, 8, 4), Transform::None);
}
