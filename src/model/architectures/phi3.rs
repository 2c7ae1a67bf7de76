//! Phi-3, Phi-3.5 and Phi-4: fused qkv and gate/up projections, stored by GGUF as they are.

use serde_json::{Map, Value};

use super::llama::{self, ATTENTION, FRAME, GATED, GGUF, LAYER, OUTLINE};
use super::parts::*;

/// llama.cpp tells Phi-4 from its predecessors by a sliding window of 0.
const KEYS: &[Key] = &[
    int("sliding_window", "attention.sliding_window").or(Missing::Int(0)),
    int("original_max_position_embeddings", "rope.scaling.original_context_length")
        .or(Missing::Copy("max_position_embeddings")),
];

/// Phi-3 and Phi-4.
pub(crate) static PHI3: Arch = Arch {
    models: &[("phi3", "Phi3ForCausalLM")],
    outline: Outline {
        frame: Frame { norm: NormKind { epsilon: 1e-5, ..FRAME.norm }, ..FRAME },
        layer: Layer {
            mixer: Mixer::Attention(Attention {
                input: Projections::Stacked("layers.{b}.self_attn.qkv_proj"),
                ..ATTENTION
            }),
            feed_forward: FeedForward::Gated(Gated {
                input: GateUp::Stacked("layers.{b}.mlp.gate_up_proj"),
                ..GATED
            }),
            ..LAYER
        },
        ..OUTLINE
    },
    adjust: llama::all_slide,
    gguf: GgufForm { name: "phi3", keys: &[DECODER_KEYS, RMS_KEYS, KEYS], complete: no_window, ..GGUF },
};

fn no_window(config: &mut Map<String, Value>, _: &HasTensor) {
    if config.get("sliding_window").and_then(Value::as_u64) == Some(0) {
        config.insert("sliding_window".into(), Value::Null);
    }
}
