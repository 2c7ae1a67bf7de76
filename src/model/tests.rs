//! Names and settings of every listed architecture.

use serde_json::json;

use super::arch::GgufPlace;
use super::architectures::{gemma, llama, qwen};
use super::mixer::attention::Attention;
use super::names::Numbers;
use super::*;

#[test]
fn names_go_both_ways_in_every_architecture() {
    let mut checked = 0;
    for arch in ARCHITECTURES.iter().filter(|arch| arch.has_gguf()) {
        for tensor in arch.outline.tensors() {
            let numbers = Numbers { block: Some(7), part: Some(0) };
            let gguf =
                names::fill(tensor.role.gguf().expect("a role with a name in GGUF"), numbers, "weight");
            let content = arch.content(&gguf).expect("a name of the outline");
            let place = arch.place(&content.hf_name(0)).expect("a name of the outline");
            assert_eq!(place, GgufPlace { name: gguf, part: tensor.is_stacked().then_some(0) });
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} names");
}

#[test]
fn bare_models_and_text_models_within_larger_ones_have_the_same_tensors() {
    let found = |name: &str| llama::LLAMA.tensor(name).map(|tensor| tensor.role);
    for base in ["model.", "", "language_model.model.", "model.language_model."] {
        assert_eq!(found(&format!("{base}layers.3.self_attn.k_proj.weight")), Some(TensorRole::Key));
    }
    assert_eq!(found("lm_head.weight"), Some(TensorRole::Head));
    assert_eq!(found("model.lm_head.weight"), None);
    assert_eq!(found("model.visual.blocks.0.attn.qkv.weight"), None);
}

#[test]
fn experts_are_parts_of_a_stack() {
    let place = llama::MIXTRAL.place("model.layers.2.block_sparse_moe.experts.5.w3.weight");
    assert_eq!(place, Some(GgufPlace { name: "blk.2.ffn_up_exps.weight".into(), part: Some(5) }));
    let content = qwen::QWEN3_MOE.content("blk.0.ffn_gate_exps.weight").expect("a known name");
    assert_eq!(content.hf_name(9), "model.layers.0.mlp.experts.9.gate_proj.weight");
    // A block without a router has no name in these models' GGUF.
    assert_eq!(qwen::QWEN3_MOE.place("model.layers.0.mlp.gate_proj.weight"), None);
}

/// The attention of a block.
fn attention(model: &Model, block: usize) -> Attention {
    let Mixer::Attention(attention) = model.layers[block].mixer;
    attention
}

#[test]
fn models_are_found_by_either_name() {
    let found = |model_type: &str| find_hf(&json!({ "model_type": model_type })).map(|arch| arch.gguf.name);
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

/// A Llama of 2 blocks with some settings replaced; null takes one away.
fn changed(changes: serde_json::Value) -> serde_json::Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2,
        "max_position_embeddings": 64,
    });
    let settings = config.as_object_mut().expect("an object");
    settings.extend(changes.as_object().expect("an object").clone());
    settings.retain(|_, value| !value.is_null());
    config
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let cases = [
        (json!({ "num_hidden_layers": 16_777_216 }), "num_hidden_layers"),
        (json!({ "num_attention_heads": 0 }), "num_attention_heads"),
        (json!({ "num_key_value_heads": 2 }), "num_key_value_heads"),
        (json!({ "rms_norm_eps": "1e-5" }), "rms_norm_eps"),
        (json!({ "tie_word_embeddings": "false" }), "tie_word_embeddings"),
        (json!({ "hidden_act": "relu6" }), "hidden_act"),
        (json!({ "layer_types": ["full_attention", "linear_attention"] }), "linear_attention"),
        (json!({ "partial_rotary_factor": 1e30 }), "rotates"),
        (json!({ "rope_scaling": { "factor": 8.0 } }), "rope scaling"),
        (json!({ "rope_scaling": { "type": "longrope", "short_factor": [1.0] } }), "longrope factors"),
        (json!({ "rope_scaling": { "type": "mystery" } }), "mystery"),
        (json!({ "model_type": "foobar" }), "foobar"),
        (json!({ "model_type": null }), "model_type"),
        (
            json!({ "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3 }),
            "num_experts_per_tok",
        ),
    ];
    assert!(configure(&changed(json!({}))).is_ok());
    for (changes, named) in cases {
        let error = configure(&changed(changes.clone())).expect_err(named).to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
}

#[test]
fn settings_that_config_json_leaves_out_are_the_defaults_of_its_class() {
    let gemma2 = configure(&changed(json!({ "model_type": "gemma2", "head_dim": 10 }))).expect("a Gemma 2");
    assert_eq!((attention(&gemma2, 0).soft_cap, gemma2.frame.logit_cap), (Some(50.0), Some(30.0)));
    assert_eq!((attention(&gemma2, 0).window, attention(&gemma2, 1).window), (Some(4096), None));
    let window = json!({ "sliding_window": 5 });
    assert_eq!(attention(&configure(&changed(window.clone())).expect("a Llama"), 0).window, None);
    let mut mistral = changed(window);
    mistral["model_type"] = "mistral".into();
    assert_eq!(attention(&configure(&mistral).expect("a Mistral"), 0).window, Some(5));
    // Encoders and OPT do not rotate: an odd size of head is none of their business.
    assert!(configure(&changed(json!({ "model_type": "bert", "num_attention_heads": 2 }))).is_ok());
}

#[test]
fn slopes_are_those_of_the_paper() {
    let bloom = |heads: usize| {
        let settings = json!({ "model_type": "bloom", "hidden_size": heads, "n_head": heads });
        attention(&configure(&changed(settings)).expect("a BLOOM"), 0).slopes().expect("slopes")
    };
    assert_eq!(bloom(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
    // Two heads of the power of two below, 2⁻⁴ and 2⁻⁸, and the first of the four above, 2⁻².
    assert_eq!(bloom(3), [0.0625, 0.00390625, 0.25]);
}
