//! The roles of tensors: which are linears that a scheme applies to, which are left alone by rule, and which are stored alike.
//!
//! For the architectures of [`crate::model`], the roles follow from their description. For all other checkpoints, and for
//! tensors that the description does not have, they follow from names and shapes: any model can be quantized.

use serde_json::Value;

use super::role::{
    CONV1D, EXPERTS_BY_NAME, GATE_UP, NORM, PREDICTS, QKV, ROUTER, Role, TOWER, cached_by_name,
    fused_by_name, is_number, layer_number, named, predicting_from, predictor, tower,
};
use super::tensors::Measured;
use crate::model::{self, Arch, Network, TensorRole};
use crate::tensor::DType;

const TRANSPOSED_STACK: &str = "a stack stored as [experts, in, out]";
/// Source: `SequentialLlama4TextExperts`, <https://github.com/huggingface/transformers/blob/main/src/transformers/quantizers/base.py>.
const LLAMA4_STACK: &str = "a stack stored as [experts, in, out]; transformers splits Llama 4's experts when it loads \
    compressed-tensors, and does not find them in this output";

/// The roles of a checkpoint's tensors, by Hugging Face name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Roles {
    arch: Option<&'static Arch>,
    /// True if an architecture without a description stores some linears as [in, out] (`Conv1D`).
    conv1d: bool,
    /// The reason to leave stacks of experts dense, if an architecture stores them as [experts, in, out].
    transposed_stacks: Option<&'static str>,
    /// The number of layers, where those beyond predict further tokens.
    layers: Option<usize>,
    /// True for a model that is nothing but a tower: its linears are what there is to quantize.
    only_towers: bool,
}

impl Roles {
    /// Returns the roles in the model of a config.json.
    pub(crate) fn of(config: Option<&Value>) -> Roles {
        let model_type = config.and_then(|config| config.get("model_type")?.as_str());
        Roles {
            arch: config.and_then(model::find),
            conv1d: matches!(model_type, Some("openai-gpt" | "imagegpt" | "decision_transformer")),
            transposed_stacks: match model_type {
                Some("gpt_oss") => Some(TRANSPOSED_STACK),
                Some("llama4" | "llama4_text") => Some(LLAMA4_STACK),
                _ => None,
            },
            layers: config.and_then(predicting_from),
            only_towers: false,
        }
    }

    /// Returns the roles in a model of these tensors.
    pub(crate) fn among<'a>(self, names: impl Iterator<Item = &'a str>) -> Roles {
        let mut layers = names.filter(|name| layer_number(name).is_some() && name.ends_with(".weight"));
        Roles { only_towers: layers.all(|name| tower(name).is_some()), ..self }
    }

    /// Returns the role of a tensor.
    pub(crate) fn role(&self, name: &str, shape: &[usize], dtype: DType) -> Role {
        match unfit(name, shape, dtype) {
            Some(reason) => Role::Other(reason),
            None => match self.transposed_stacks {
                Some(reason) if shape.len() == 3 => Role::Unsupported(reason),
                _ => self.described(name).unwrap_or_else(|| self.guessed(name)),
            },
        }
    }

    /// Returns the role that a name suggests, of a tensor that no description has.
    fn guessed(&self, name: &str) -> Role {
        match named(name, self.conv1d) {
            Role::Linear if predictor(name, self.layers).is_some() => Role::Other(PREDICTS),
            Role::Linear if !self.only_towers && tower(name).is_some() => Role::Other(TOWER),
            role => role,
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
            TensorRole::Router | TensorRole::SharedExpertGate => Role::Other(ROUTER),
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
    let expert = is_stack(name, shape);
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

/// Returns true for matrices that are stacked along a first dimension: the experts of a layer. The last dimensions of a
/// convolution are smaller.
fn is_stack(name: &str, shape: &[usize]) -> bool {
    const LARGEST_KERNEL: usize = 31;
    let &[_, rows, cols] = shape else { return false };
    let is_expert = name.split('.').any(|part| part == "experts");
    is_expert || rows.min(cols) > LARGEST_KERNEL && !name.contains("conv") && name.ends_with(".weight")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::role::apart;

    #[test]
    fn roles_of_real_names() {
        let check = |name: &str, shape: &[usize], expected: Role| {
            assert_eq!(Roles::default().role(name, shape, DType::BF16), expected, "{name}");
        };
        check("model.layers.0.mlp.down_proj.weight", &[576, 1536], Role::Linear);
        check("model.layers.0.mlp.gate_proj.weight", &[1536, 576], Role::Linear);
        check("model.layers.0.mlp.gate.weight", &[8, 576], Role::Other(ROUTER));
        check("model.layers.0.block_sparse_moe.gate.weight", &[8, 576], Role::Other(ROUTER));
        check("model.layers.0.mlp.experts.gate_up_proj", &[8, 64, 32], Role::Linear);
        check("model.layers.0.input_layernorm.weight", &[576], Role::Other("1-D"));
        check("model.embed_tokens.weight", &[49152, 576], Role::Embedding);
        check("lm_head.weight", &[49152, 576], Role::Head);
        check("encoder.layer.0.attention.self.query.weight", &[384, 384], Role::Linear);
        check("encoder.layer.0.attention.output.dense.weight", &[384, 384], Role::Linear);
        check("embeddings.word_embeddings.weight", &[30522, 384], Role::Embedding);
        check("embeddings.LayerNorm.weight", &[384], Role::Other("1-D"));
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

    /// Names of many models, read in their files.
    #[test]
    fn parts_that_stay_dense_by_rule() {
        let check = |name: &str, expected: &'static str| {
            let role = Roles::default().role(&format!("{name}.weight"), &[512, 64], DType::BF16);
            assert_eq!(role, Role::Other(expected), "{name}");
        };
        for router in [
            "model.layers.0.mlp.gate",                       // Qwen
            "model.layers.0.mlp.gate.wg",                    // Hunyuan
            "model.layers.0.block_sparse_moe.router.layer",  // Granite
            "transformer.blocks.0.ffn.router.layer",         // DBRX
            "encoder.block.1.layer.1.mlp.router.classifier", // Switch Transformer
            "model.layers.3.mlp.shared_expert_gate",         // Qwen
            "backbone.layers.1.mixer.gate",                  // Nemotron-H
            "model.layers.0.feed_forward.router",            // Llama 4
        ] {
            check(router, ROUTER);
        }
        for predictor in [
            "mtp.fc",
            "model.layers.61.eh_proj",
            "model.layers.61.shared_head.head",
            "mtp.layers.0.mlp.up_proj",
        ] {
            check(predictor, PREDICTS);
        }
        for tower in [
            "model.visual.blocks.0.attn.qkv",
            "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
            "vision_model.encoder.layers.0.mlp.fc1",
            "model.multi_modal_projector.linear_1",
            "mlp1.1",
            "audio_tower.layers.0.fc1",
            "model.connector.modality_projection.proj",
        ] {
            check(tower, TOWER);
        }
        check("model.layers.0.self_attn.kv_b_proj", "absorbed into attention by engines");
        check("model.layers.0.linear_attn.in_proj_ba", "small, and makes the decays of a state");
        check("encoder.block.0.layer.1.DenseReluDense.wo", "T5's wo, whose outputs 16 bits do not hold");
        check("pooler.dense", "small, and its outputs are the result");
        for linear in [
            "model.layers.0.mlp.gate_proj",
            "model.layers.0.linear_attn.in_proj_qkvz",
            "encoder.block.0.layer.1.DenseReluDense.wi",
        ] {
            let role = Roles::default().role(&format!("{linear}.weight"), &[512, 64], DType::BF16);
            assert_eq!(role, Role::Linear, "{linear}");
        }
    }

    #[test]
    fn layers_beyond_the_models_predict_further_tokens() {
        let config =
            json!({ "model_type": "glm4_moe", "num_hidden_layers": 46, "num_nextn_predict_layers": 1 });
        let role = |name: &str| Roles::of(Some(&config)).role(name, &[64, 64], DType::BF16);
        assert_eq!(role("model.layers.45.self_attn.q_proj.weight"), Role::Linear);
        assert_eq!(role("model.layers.46.self_attn.q_proj.weight"), Role::Other(PREDICTS));
    }

    #[test]
    fn stacks_are_no_convolutions() {
        let role = |name: &str, shape: &[usize]| Roles::default().role(name, shape, DType::BF16);
        let granite = "model.layers.0.block_sparse_moe.input_linear.weight";
        assert_eq!(role(granite, &[32, 1024, 1536]), Role::Linear);
        assert_eq!(role("conv1.weight", &[80, 384, 3]), Role::Other("a convolution"));
        assert_eq!(role("pos_conv_embed.conv.weight", &[768, 48, 128]), Role::Other("a convolution"));
        let gpt_oss = Roles::of(Some(&json!({ "model_type": "gpt_oss" })));
        let stack = gpt_oss.role("model.layers.0.mlp.experts.down_proj", &[8, 64, 32], DType::BF16);
        assert_eq!(stack, Role::Unsupported(TRANSPOSED_STACK));
        let llama4 = Roles::of(Some(&json!({ "model_type": "llama4" })));
        let stack = llama4.role(
            "language_model.model.layers.0.feed_forward.experts.down_proj",
            &[8, 64, 32],
            DType::BF16,
        );
        assert_eq!(stack, Role::Unsupported(LLAMA4_STACK));
    }

    #[test]
    fn the_path_of_a_tower() {
        assert_eq!(apart("model.vision_tower.encoder.layers.0.fc1", None), Some("model.vision_tower"));
        assert_eq!(apart("visual.merger.mlp.0", None), Some("visual"));
        assert_eq!(apart("model.layers.0.mlp.up_proj", None), None);
        assert_eq!(apart("transformer_blocks.0.img_mlp.net", None), None);
        assert_eq!(apart("mtp.layers.0.mlp.up_proj", None), Some("mtp"));
        assert_eq!(apart("model.layers.61.mlp.up_proj", Some(61)), Some("model.layers.61"));
        assert_eq!(apart("model.layers.60.mlp.up_proj", Some(61)), None);
    }

    /// A model that is nothing but a tower is quantized like any other.
    #[test]
    fn a_tower_alone_is_a_model() {
        let role = |names: &[&str]| {
            let roles = Roles::default().among(names.iter().copied());
            roles.role("vit.encoder.layer.0.attention.query.weight", &[64, 64], DType::F32)
        };
        let tower =
            ["vit.encoder.layer.0.attention.query.weight", "vit.layernorm.weight", "classifier.weight"];
        assert_eq!(role(&tower), Role::Linear);
        assert_eq!(role(&[tower[0], "model.layers.0.mlp.up_proj.weight"]), Role::Other(TOWER));
    }

    /// Names alone and the description of the architecture agree on every linear and table that has a usual name.
    #[test]
    fn descriptions_and_names_agree() {
        let mut checked = 0;
        for arch in model::ARCHITECTURES {
            let known = Roles { arch: Some(arch), ..Roles::default() };
            let by_name = Roles { conv1d: arch.outline.frame.transposed, ..Roles::default() };
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
