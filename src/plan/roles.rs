//! The roles of tensors: which are linears that a scheme applies to, which are left alone by rule, and which are stored alike.
//!
//! For the architectures of [`crate::model`], the roles follow from their description. For all other checkpoints, and for
//! tensors that the description does not have, they follow from names and shapes: any model can be quantized.

use serde_json::Value;

use super::tensors::Measured;
use crate::model::{self, Arch, Network, TensorRole};
use crate::tensor::DType;

/// The role of a tensor in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The weight of a linear layer.
    Linear,
    /// A table of token (or position, or type) vectors.
    Embedding,
    /// The projection onto the vocabulary.
    Head,
    /// Anything else, with the reason why it is left alone.
    Other(&'static str),
}

const ROUTER: Role = Role::Other("a router");
const NORM: Role = Role::Other("a norm");
const CONV1D: Role = Role::Other("a Conv1D, stored as [in, out]");

/// The roles of a checkpoint's tensors, by Hugging Face name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Roles {
    arch: Option<&'static Arch>,
    /// True if an architecture without a description stores some linears as [in, out] (`Conv1D`).
    conv1d: bool,
}

impl Roles {
    /// Returns the roles in the model of a config.json.
    pub(crate) fn of(config: Option<&Value>) -> Roles {
        let model_type = config.and_then(|config| config.get("model_type")?.as_str());
        let conv1d = matches!(model_type, Some("openai-gpt" | "imagegpt" | "decision_transformer"));
        Roles { arch: config.and_then(model::find), conv1d }
    }

    /// Returns the role of a tensor.
    pub(crate) fn role(&self, name: &str, shape: &[usize], dtype: DType) -> Role {
        match unfit(name, shape, dtype) {
            Some(reason) => Role::Other(reason),
            None => self.described(name).unwrap_or_else(|| named(name, self.conv1d)),
        }
    }

    /// Returns the role of a tensor that the description has.
    fn described(&self, name: &str) -> Option<Role> {
        let transposed = self.arch?.outline.frame.transposed;
        Some(match self.tensor(name)? {
            TensorRole::TokenEmbedding | TensorRole::PositionEmbedding | TensorRole::TypeEmbedding => {
                Role::Embedding
            }
            TensorRole::Head => Role::Head,
            TensorRole::Router | TensorRole::SharedExpertGate => ROUTER,
            role if role.is_norm() => NORM,
            _ if transposed => CONV1D,
            _ => Role::Linear,
        })
    }

    /// Returns the role that the description gives a weight.
    fn tensor(&self, name: &str) -> Option<TensorRole> {
        self.arch?.tensor(name).filter(|tensor| tensor.suffix == "weight").map(|tensor| tensor.role)
    }

    /// Returns which of the keys and values that a decoder's attention caches a linear makes.
    pub(crate) fn cached(&self, name: &str) -> &'static [Measured] {
        let is_encoder = self.arch.is_some_and(|arch| arch.outline.frame.head.is_none());
        match self.tensor(name) {
            _ if is_encoder => &[],
            Some(TensorRole::Key) => &[Measured::Key],
            Some(TensorRole::Value) => &[Measured::Value],
            Some(TensorRole::QueryKeyValue) => &[Measured::Key, Measured::Value],
            Some(_) => &[],
            None => cached_by_name(name),
        }
    }

    /// Returns the group of linears that engines fuse into one, and that must share what is stored once per tensor.
    pub(crate) fn fused_group(&self, name: &str) -> Option<String> {
        let (parent, last) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let fused = match self.tensor(name) {
            Some(TensorRole::Query | TensorRole::Key | TensorRole::Value) => QKV,
            Some(TensorRole::Gate(network) | TensorRole::Up(network)) if self.has_gate(network) => GATE_UP,
            Some(_) => return None,
            None => fused_by_name(last)?,
        };
        Some(format!("{parent}.{fused}"))
    }

    fn has_gate(&self, network: Network) -> bool {
        self.arch.is_some_and(|arch| arch.has(TensorRole::Gate(network)))
    }

    /// Returns the group of linears that engines run as one kernel, and that must be stored alike: every expert of a layer,
    /// else those of a [fused group](Roles::fused_group).
    pub(crate) fn engine_group(&self, name: &str) -> Option<String> {
        let experts = || {
            let (module, last) = name.strip_suffix(".weight")?.rsplit_once('.')?;
            let (parent, index) = module.rsplit_once('.')?;
            let is_expert = match self.tensor(name) {
                Some(TensorRole::Gate(network) | TensorRole::Up(network) | TensorRole::Down(network)) => {
                    network == Network::Expert
                }
                Some(_) => false,
                None => is_number(index) && parent.ends_with("experts") && EXPERTS_BY_NAME.contains(&last),
            };
            is_expert.then(|| parent.to_owned())
        };
        experts().or_else(|| self.fused_group(name))
    }

    /// Returns what a linear belongs to that must be stored alike: its engine group, else itself.
    pub(crate) fn group(&self, linear: &str) -> String {
        self.engine_group(linear).unwrap_or_else(|| linear.to_owned())
    }
}

/// Returns the reason why a tensor of this name, shape and type is no table or linear, if there is one.
fn unfit(name: &str, shape: &[usize], dtype: DType) -> Option<&'static str> {
    let expert = shape.len() == 3 && name.split('.').any(|part| part == "experts");
    if !dtype.is_float() {
        Some("not a float")
    } else if shape.len() < 2 {
        Some("1-D")
    } else if !name.ends_with(".weight") && !expert {
        Some("not the weight of a module")
    } else if shape.len() > 2 && !expert {
        Some("a convolution")
    } else {
        None
    }
}

const QKV: &str = "qkv";
const GATE_UP: &str = "gate_up";
/// Projections that engines fuse, with the beginning of the fused module's name: `qkv_proj`, `gate_up_proj`.
pub(crate) const FUSED_PROJECTIONS: [(&str, &[&str]); 2] =
    [(QKV, &["q_proj", "k_proj", "v_proj"]), (GATE_UP, &["gate_proj", "up_proj"])];
/// The same linears under other names.
const OTHER_FUSED: [(&str, &[&str]); 2] = [(QKV, &["query", "key", "value"]), (GATE_UP, &["w1", "w3"])];
const EXPERTS_BY_NAME: &[&str] = &["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];
/// Tables without `embed` in their names.
const EMBEDDINGS_BY_NAME: &[&str] = &["emb", "wte", "wpe", "shared", "relative_attention_bias"];
const HEADS_BY_NAME: &[&str] = &["lm_head", "embed_out", "output"];
const ROUTERS_BY_NAME: &[&str] =
    &["router", "gate", "shared_expert_gate", "ffn_gate_inp", "ffn_gate_inp_shexp"];
const CONV1D_BY_NAME: &[&str] = &["c_attn", "c_proj", "c_fc", "q_attn"];

/// Returns the role that a name suggests. `conv1d` is true if the model stores some linears as [in, out].
fn named(name: &str, conv1d: bool) -> Role {
    let module: Vec<&str> = name.strip_suffix(".weight").unwrap_or(name).split('.').collect();
    let last = module.last().copied().unwrap_or_default();
    let is = |names: &[&str]| names.contains(&last);
    if is(HEADS_BY_NAME) && !module.contains(&"attention") {
        Role::Head
    } else if is(EMBEDDINGS_BY_NAME) || embeds(&module) && !is(&["dense"]) {
        Role::Embedding
    } else if is(ROUTERS_BY_NAME) {
        ROUTER
    } else if last.contains("norm") || last.starts_with("ln_") {
        NORM
    } else if conv1d && is(CONV1D_BY_NAME) {
        CONV1D
    } else {
        Role::Linear
    }
}

/// Returns true if a part of a module's path names an embedding, behind the number of the innermost layer: an
/// `embedder.layers.3.…` is a model of its own. Linears inside an embedding (ALBERT's `embedding_hidden_mapping_in`) count as
/// embeddings, which leaves them alone: the safe choice.
fn embeds(module: &[&str]) -> bool {
    let (_, path) = module.split_last().unwrap_or((&"", &[]));
    let layer = path.iter().rposition(|part| is_number(part)).map_or(0, |index| index + 1);
    module[layer..].iter().any(|part| part.contains("embed") || part.contains("embd"))
}

fn is_number(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

fn fused_by_name(last: &str) -> Option<&'static str> {
    let all = FUSED_PROJECTIONS.iter().chain(&OTHER_FUSED);
    all.into_iter().find(|(_, members)| members.contains(&last)).map(|(fused, _)| *fused)
}

fn cached_by_name(name: &str) -> &'static [Measured] {
    let module = name.strip_suffix(".weight").unwrap_or_default();
    match module.rsplit('.').next() {
        Some("k_proj") => &[Measured::Key],
        Some("v_proj") => &[Measured::Value],
        Some("qkv_proj" | "query_key_value" | "c_attn") => &[Measured::Key, Measured::Value],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn roles_of_real_names() {
        let check = |name: &str, shape: &[usize], expected: Role| {
            assert_eq!(Roles::default().role(name, shape, DType::BF16), expected, "{name}");
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
        assert_eq!(Roles::default().role("x.weight", &[4, 4], DType::I64), Role::Other("not a float"));
        let c_attn =
            |config: Value| Roles::of(Some(&config)).role("h.0.attn.c_attn.weight", &[8, 24], DType::F32);
        assert_eq!(c_attn(json!({})), Role::Linear);
        assert_eq!(c_attn(json!({ "model_type": "gpt2" })), CONV1D);
        assert_eq!(c_attn(json!({ "model_type": "openai-gpt" })), CONV1D);
    }

    #[test]
    fn embeddings_of_many_models() {
        let check = |name: &str, expected: Role| {
            assert_eq!(Roles::default().role(name, &[512, 64], DType::BF16), expected, "{name}");
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
        let group = |name: &str| Roles::default().engine_group(&format!("model.layers.3.{name}.weight"));
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
        let group =
            |name: &str| Roles::default().fused_group(&format!("model.layers.3.self_attn.{name}.weight"));
        assert_eq!(group("q_proj"), group("v_proj"));
        assert!(group("q_proj").is_some());
        assert_eq!(group("o_proj"), None);
        assert_ne!(group("gate_proj"), group("q_proj"));
    }

    /// Names alone and the description of the architecture agree on every linear and table that has a usual name.
    #[test]
    fn descriptions_and_names_agree() {
        let mut checked = 0;
        for arch in model::ARCHITECTURES {
            let known = Roles { arch: Some(arch), conv1d: false };
            let by_name = Roles { arch: None, conv1d: arch.outline.frame.transposed };
            let frame = arch.outline.frame;
            for tensor in arch.outline.tensors().iter().filter(|tensor| !tensor.role.is_norm()) {
                let base = if tensor.role == TensorRole::Head { "" } else { frame.base };
                let pattern = tensor.hf.replace("{b}", "3").replace("{e}", "5");
                let name = format!("{base}{pattern}.weight");
                let role = |roles: Roles| roles.role(&name, &[8, 8], DType::F32);
                assert_eq!(role(known), role(by_name), "{name}");
                assert_eq!(known.engine_group(&name), by_name.engine_group(&name), "{name}");
                assert_eq!(known.fused_group(&name), by_name.fused_group(&name), "{name}");
                assert_eq!(known.cached(&name), by_name.cached(&name), "{name}");
                checked += 1;
            }
        }
        assert!(checked > 150, "only {checked} tensors");
    }
}
