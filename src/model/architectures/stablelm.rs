//! StableLM 2: layer norms with biases, partial rope, in the 12B a norm per head.

use serde_json::{Map, Value};

use super::llama::{ATTENTION, FRAME, GGUF, KEYS, LAYER, ROTATION};
use super::parts::*;

/// One norm per head, stacked by GGUF.
const HEAD_NORMS: HeadNorms = HeadNorms {
    names: ["layers.{b}.self_attn.q_layernorm.norms.{e}", "layers.{b}.self_attn.k_layernorm.norms.{e}"],
    whole: false,
};

const OPTIONS: &[Key] = &[
    float("layer_norm_eps", "attention.layer_norm_epsilon").or(Missing::Float(1e-5)),
    Key {
        hf: "use_parallel_residual",
        gguf: "use_parallel_residual",
        kind: KeyType::Bool,
        missing: Missing::Bool(false),
    },
];

/// Reads the options. In parallel, one norm serves mixer and feed-forward network.
fn options(settings: &Settings, model: &mut Model) -> Result<()> {
    let per_head = settings.flag("qk_layernorm", false)?;
    let parallel = settings.flag("use_parallel_residual", false)?;
    model.attentions().for_each(|attention| attention.norms = attention.norms.filter(|_| per_head));
    for layer in &mut model.layers {
        layer.parallel = parallel;
        let norms = &mut layer.norms.feed_forward;
        norms.input = norms.input.filter(|_| !parallel);
    }
    Ok(())
}

/// StableLM 2. A quarter of each head is rotated where config.json does not say.
pub(crate) static STABLELM: Arch = Arch {
    models: &[("stablelm", "StableLmForCausalLM")],
    outline: Outline {
        frame: Frame { norm: NormKind { centered: true, epsilon: 1e-5, plus_one: false }, ..FRAME },
        layer: Layer { mixer: Mixer::Attention(Attention { norms: Some(HEAD_NORMS), ..ATTENTION }), ..LAYER },
        rotation: Some(RotationDefaults { partial: 0.25, ..ROTATION }),
        keys: SettingKeys { head_dim: &[], epsilon: &["layer_norm_eps"], ..KEYS },
    },
    adjust: options,
    gguf: GgufForm { name: "stablelm", keys: &[DECODER_KEYS, OPTIONS], complete: rebuilt_options, ..GGUF },
};

fn rebuilt_options(config: &mut Map<String, Value>, has: &HasTensor) {
    config.insert("use_qkv_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("qk_layernorm".into(), has("blk.0.attn_q_norm.weight").into());
}
