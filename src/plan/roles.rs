//! What a tensor is, by its name and shape alone: which tensors are linears that a scheme applies to, and which are
//! left alone by rule. Works on any checkpoint, known architecture or not.

use super::tensors::Measured;
use crate::tensor::DType;

/// What a tensor does in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The weight of a linear layer.
    Linear,
    /// A table of token (or position, or type) vectors.
    Embedding,
    /// The projection onto the vocabulary.
    Head,
    /// Anything else, and why it is left alone.
    Other(&'static str),
}

/// Tables whose names do not say that they embed.
const EMBEDDINGS: &[&str] = &["emb", "wte", "wpe", "shared", "relative_attention_bias"];
const HEADS: &[&str] = &["lm_head", "embed_out", "output"];
const ROUTERS: &[&str] = &["router", "gate", "shared_expert_gate", "ffn_gate_inp", "ffn_gate_inp_shexp"];
const CONV1D: &[&str] = &["c_attn", "c_proj", "c_fc", "q_attn"];

/// The role of a tensor, from its Hugging Face name. `conv1d` says that the model keeps some linears transposed
/// ([in, out], GPT-2's `Conv1D`).
pub fn role(name: &str, shape: &[usize], dtype: DType, conv1d: bool) -> Role {
    let module: Vec<&str> = name.strip_suffix(".weight").unwrap_or(name).split('.').collect();
    let last = module.last().copied().unwrap_or_default();
    let is = |names: &[&str]| names.contains(&last);
    let expert = shape.len() == 3 && module.contains(&"experts");
    if !dtype.is_float() {
        Role::Other("not a float")
    } else if shape.len() < 2 {
        Role::Other("1-D")
    } else if !name.ends_with(".weight") && !expert {
        Role::Other("not the weight of a module")
    } else if shape.len() > 2 && !expert {
        Role::Other("a convolution")
    } else if is(HEADS) && !module.contains(&"attention") {
        Role::Head
    } else if is(EMBEDDINGS) || embeds(&module) && !is(&["dense"]) {
        Role::Embedding
    } else if is(ROUTERS) {
        Role::Other("a router")
    } else if last.contains("norm") || last.starts_with("ln_") {
        Role::Other("a norm")
    } else if conv1d && is(CONV1D) {
        Role::Other("a Conv1D, stored as [in, out]")
    } else {
        Role::Linear
    }
}

/// Whether a part of a module's path says that it embeds, seen from the innermost layer: an `embedder.layers.3.…` is a
/// model of its own. Linears inside an embedding (ALBERT's `embedding_hidden_mapping_in`) count as embeddings, which
/// leaves them alone: the safe choice.
fn embeds(module: &[&str]) -> bool {
    let (_, path) = module.split_last().unwrap_or((&"", &[]));
    let numbered = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let layer = path.iter().rposition(numbered).map_or(0, |index| index + 1);
    module[layer..].iter().any(|part| part.contains("embed") || part.contains("embd"))
}

/// Which of the keys and values that a decoder's attention caches a linear makes.
pub fn cached(name: &str) -> &'static [Measured] {
    let module = name.strip_suffix(".weight").unwrap_or_default();
    match module.rsplit('.').next() {
        Some("k_proj") => &[Measured::Key],
        Some("v_proj") => &[Measured::Value],
        Some("qkv_proj" | "query_key_value" | "c_attn") => &[Measured::Key, Measured::Value],
        _ => &[],
    }
}

/// Linears that engines fuse into one, and that must share what is per tensor: the fused module's name, or `None`.
pub fn fused_group(name: &str) -> Option<String> {
    const FUSED: &[(&str, &[&str])] = &[
        ("qkv", &["q_proj", "k_proj", "v_proj"]),
        ("qkv", &["query", "key", "value"]),
        ("gate_up", &["gate_proj", "up_proj"]),
        ("gate_up", &["w1", "w3"]),
    ];
    let (parent, last) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let fused = FUSED.iter().find(|(_, members)| members.contains(&last))?.0;
    Some(format!("{parent}.{fused}"))
}

/// Linears that engines run as one kernel, and that must be stored alike: every expert of a layer, else those of a
/// [`fused_group`].
pub fn engine_group(name: &str) -> Option<String> {
    const EXPERT: &[&str] = &["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];
    let expert = || {
        let (module, last) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let (parent, index) = module.rsplit_once('.')?;
        let numbered = index.bytes().all(|byte| byte.is_ascii_digit());
        (numbered && parent.ends_with("experts") && EXPERT.contains(&last)).then(|| parent.to_owned())
    };
    expert().or_else(|| fused_group(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_real_names() {
        let check = |name: &str, shape: &[usize], expected: Role| {
            assert_eq!(role(name, shape, DType::BF16, false), expected, "{name}");
        };
        check("model.layers.0.mlp.down_proj.weight", &[576, 1536], Role::Linear);
        check("model.layers.0.mlp.gate_proj.weight", &[1536, 576], Role::Linear);
        check("model.layers.0.mlp.gate.weight", &[8, 576], Role::Other("a router"));
        check("model.layers.0.block_sparse_moe.gate.weight", &[8, 576], Role::Other("a router"));
        check("model.layers.0.mlp.experts.gate_up_proj", &[8, 64, 32], Role::Linear);
        check("model.layers.0.input_layernorm.weight", &[576], Role::Other("1-D"));
        check("model.embed_tokens.weight", &[49152, 576], Role::Embedding);
        check("lm_head.weight", &[49152, 576], Role::Head);
        check("encoder.layer.0.attention.self.query.weight", &[384, 384], Role::Linear);
        check("encoder.layer.0.attention.output.dense.weight", &[384, 384], Role::Linear);
        check("embeddings.word_embeddings.weight", &[30522, 384], Role::Embedding);
        check("embeddings.LayerNorm.weight", &[384], Role::Other("1-D"));
        check("pooler.dense.weight", &[384, 384], Role::Linear);
        check("conv1.weight", &[64, 3, 7, 7], Role::Other("a convolution"));
        check("scalar.weight", &[], Role::Other("1-D"));
        check("rotary.inv_freq", &[2, 32], Role::Other("not the weight of a module"));
        assert_eq!(role("x.weight", &[4, 4], DType::I64, false), Role::Other("not a float"));
        assert_eq!(role("h.0.attn.c_attn.weight", &[8, 24], DType::F32, false), Role::Linear);
        assert!(matches!(role("h.0.attn.c_attn.weight", &[8, 24], DType::F32, true), Role::Other(_)));
    }

    #[test]
    fn embeddings_of_many_models() {
        let check = |name: &str, expected: Role| {
            assert_eq!(role(name, &[512, 64], DType::BF16, false), expected, "{name}");
        };
        for embedding in [
            "model.language_model.embed_tokens_per_layer.weight", // Gemma 3n
            "model.visual.pos_embed.weight",                      // Qwen3-VL
            "transformer.word_embedding.weight",                  // XLNet
            "emb.weight",                                         // RWKV
            "transformer.wte.weight",
            "decoder.embed_tokens.0.weight", // MusicGen, one a codebook
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "encoder.embedding_hidden_mapping_in.weight", // ALBERT: a linear, and left alone
            "token_embd.weight",
            "shared.weight",
        ] {
            check(embedding, Role::Embedding);
        }
        check("embed_out.weight", Role::Head);
        check("embedder.layers.3.attention.wq.weight", Role::Linear);
        check("model.layers.0.mlp.shared.up_proj.weight", Role::Linear);
    }

    #[test]
    fn experts_of_a_layer_share_an_engine_group() {
        let group = |name: &str| engine_group(&format!("model.layers.3.{name}.weight"));
        assert_eq!(group("mlp.experts.0.gate_proj"), group("mlp.experts.17.down_proj"));
        assert_eq!(
            group("block_sparse_moe.experts.0.w1").as_deref(),
            Some("model.layers.3.block_sparse_moe.experts")
        );
        assert_ne!(group("mlp.shared_expert.up_proj"), group("mlp.experts.0.up_proj"));
        assert_eq!(group("self_attn.q_proj"), group("self_attn.k_proj"));
        assert_eq!(group("mlp.down_proj"), None);
    }

    #[test]
    fn fused_members_share_a_group() {
        let group = |name: &str| fused_group(&format!("model.layers.3.self_attn.{name}.weight"));
        assert_eq!(group("q_proj"), group("v_proj"));
        assert!(group("q_proj").is_some());
        assert_eq!(group("o_proj"), None);
        assert_ne!(group("gate_proj"), group("q_proj"));
    }
}
