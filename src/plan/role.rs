//! The role of a tensor, and the one that its name suggests: for checkpoints of any architecture.

use serde_json::Value;

use super::tensors::Measured;

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
    /// A matrix that looks like that of a linear, with the reason why it is left alone against the request.
    Unsupported(&'static str),
}

pub(super) const ROUTER: &str = "a router";
pub(super) const PREDICTS: &str = "of a head that predicts further tokens";
pub(super) const TOWER: &str = "of a tower for images or sound";
pub(super) const NORM: Role = Role::Other("a norm");
pub(super) const CONV1D: Role = Role::Other("a Conv1D, stored as [in, out]");

pub(super) const QKV: &str = "qkv";
pub(super) const GATE_UP: &str = "gate_up";
/// Projections that engines fuse, with the beginning of the fused module's name: `qkv_proj`, `gate_up_proj`.
pub(crate) const FUSED_PROJECTIONS: [(&str, &[&str]); 2] =
    [(QKV, &["q_proj", "k_proj", "v_proj"]), (GATE_UP, &["gate_proj", "up_proj"])];
/// The same linears under other names.
const OTHER_FUSED: [(&str, &[&str]); 3] = [
    (QKV, &["query", "key", "value"]),
    (GATE_UP, &["w1", "w3"]),
    ("qkv_a", &["q_a_proj", "kv_a_proj_with_mqa"]),
];
pub(super) const EXPERTS_BY_NAME: &[&str] = &["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];
/// Tables without `embed` in their names.
const EMBEDDINGS_BY_NAME: &[&str] = &["emb", "wte", "wpe", "shared", "relative_attention_bias"];
const HEADS_BY_NAME: &[&str] = &["lm_head", "embed_out", "output"];
const ROUTERS_BY_NAME: &[&str] =
    &["gate", "gating", "shared_expert_gate", "ffn_gate_inp", "ffn_gate_inp_shexp"];
/// Modules that predict further tokens, and parts of them.
const PREDICTORS_BY_NAME: &[&str] = &["nextn", "eh_proj", "shared_head"];
/// Beginnings of the names of towers for images and sound.
const TOWERS_BY_PREFIX: &[&str] = &["vision", "visual", "vit_", "image_", "img_", "audio", "speech"];
/// Towers, and the projectors behind them.
const TOWERS_BY_NAME: &[&str] = &[
    "vit",
    "vpm",
    "apm",
    "mlp1",
    "mlp_AR",
    "projector",
    "multi_modal_projector",
    "mm_projector",
    "modality_projection",
    "connector",
    "aligner",
    "resampler",
    "embed_vision",
    "embed_audio",
    "code2wav",
    "token2wav",
    "vq_model",
];
/// Linears that engines or the model need in 16 bits, with the reason.
const KEPT_BY_NAME: &[(&str, &[&str])] = &[
    ("small, and makes the decays of a state", &["in_proj_a", "in_proj_b", "in_proj_ba", "dt_proj"]),
    ("absorbed into attention by engines", &["kv_b_proj"]),
    ("of an index of tokens", &["indexer"]),
    (
        "of the inputs of single layers",
        &["per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"],
    ),
    ("of learned shortcuts", &["altup", "laurel"]),
    ("of an adapter", &["lora_A", "lora_B"]),
    ("small, and its outputs are the result", &["pooler", "score", "classifier"]),
];
const CONV1D_BY_NAME: &[&str] = &["c_attn", "c_proj", "c_fc", "q_attn"];

/// Returns the role that a name suggests. `conv1d` is true if the model stores some linears as [in, out].
pub(super) fn named(name: &str, conv1d: bool) -> Role {
    let module: Vec<&str> = name.strip_suffix(".weight").unwrap_or(name).split('.').collect();
    let last = module.last().copied().unwrap_or_default();
    let is = |names: &[&str]| names.contains(&last);
    if is(HEADS_BY_NAME) && !module.contains(&"attention") {
        Role::Head
    } else if is(EMBEDDINGS_BY_NAME) || embeds(&module) && !is(&["dense"]) {
        Role::Embedding
    } else if let Some(reason) = kept(&module) {
        Role::Other(reason)
    } else if last.contains("norm") || last.starts_with("ln_") {
        NORM
    } else if conv1d && is(CONV1D_BY_NAME) {
        CONV1D
    } else {
        Role::Linear
    }
}

/// Returns the reason why a linear of this name stays dense by rule, if there is one. Routers are told behind the number of
/// the innermost layer: `mlp.gate` and `mlp.gate.wg`, but not `mlp.gate_proj`.
fn kept(module: &[&str]) -> Option<&'static str> {
    let routes = |part: &&str| part.ends_with("router") || ROUTERS_BY_NAME.contains(part);
    if behind_layer(module).iter().any(routes) {
        Some(ROUTER)
    } else if module.ends_with(&["DenseReluDense", "wo"]) {
        Some("T5's wo, whose outputs 16 bits do not hold")
    } else {
        let named = |parts: &[&str]| module.iter().any(|part| parts.contains(part));
        KEPT_BY_NAME.iter().find(|(_, parts)| named(parts)).map(|(reason, _)| *reason)
    }
}

fn predicts(part: &str) -> bool {
    part.starts_with("mtp") || PREDICTORS_BY_NAME.contains(&part)
}

/// Returns the number of layers of a model whose further layers predict further tokens.
pub(crate) fn predicting_from(config: &Value) -> Option<usize> {
    let text = config.get("text_config").unwrap_or(config);
    let number = |key: &str| usize::try_from(text.get(key)?.as_u64()?).ok();
    number("num_nextn_predict_layers").filter(|count| *count > 0)?;
    number("num_hidden_layers")
}

/// Returns the path of the tower, or of the part that predicts further tokens, that a module is in: `model.vision_tower`.
/// `layers` is the number of layers beyond which they predict.
pub(crate) fn apart(module: &str, layers: Option<usize>) -> Option<&str> {
    predictor(module, layers).or_else(|| tower(module))
}

/// Returns the path of the part that predicts further tokens that a module is in.
pub(super) fn predictor(module: &str, layers: Option<usize>) -> Option<&str> {
    let is_beyond = |part: &str| is_number(part) && part.parse().ok() >= layers && layers.is_some();
    let (mut end, mut before) = (0, "");
    for part in module.split('.') {
        end += part.len();
        if predicts(part) || before == "layers" && is_beyond(part) {
            return Some(&module[..end]);
        }
        (end, before) = (end + 1, part);
    }
    None
}

/// Returns the path of the tower (or projector) that a module is in. Parts of layers are none, whatever their names.
pub(super) fn tower(module: &str) -> Option<&str> {
    let is_tower = |part: &str| {
        TOWERS_BY_PREFIX.iter().any(|prefix| part.starts_with(prefix)) || TOWERS_BY_NAME.contains(&part)
    };
    let mut end = 0;
    for part in module.split('.').take_while(|part| !is_number(part)) {
        end += part.len();
        if is_tower(part) {
            return Some(&module[..end]);
        }
        end += 1;
    }
    None
}

/// Returns the number of the first numbered part of a name.
pub(super) fn layer_number(name: &str) -> Option<usize> {
    name.split('.').find(|part| is_number(part))?.parse().ok()
}

/// Returns a name up to its first numbered part: `model.layers.3`.
pub(crate) fn layer_path(name: &str) -> Option<&str> {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if is_number(part) {
            return Some(&name[..end]);
        }
        end += 1;
    }
    None
}

/// Returns the parts of a path behind the number of the innermost layer.
fn behind_layer<'a, 'b>(module: &'a [&'b str]) -> &'a [&'b str] {
    let (_, path) = module.split_last().unwrap_or((&"", &[]));
    &module[path.iter().rposition(|part| is_number(part)).map_or(0, |index| index + 1)..]
}

/// Returns true if a part of a module's path names an embedding, behind the number of the innermost layer: an
/// `embedder.layers.3.…` is a model of its own. Linears inside an embedding (ALBERT's `embedding_hidden_mapping_in`) count as
/// embeddings, which leaves them alone: the safe choice.
fn embeds(module: &[&str]) -> bool {
    behind_layer(module).iter().any(|part| part.contains("embed") || part.contains("embd"))
}

pub(crate) fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn fused_by_name(last: &str) -> Option<&'static str> {
    let all = FUSED_PROJECTIONS.iter().chain(&OTHER_FUSED);
    all.into_iter().find(|(_, members)| members.contains(&last)).map(|(fused, _)| *fused)
}

pub(super) fn cached_by_name(name: &str) -> &'static [Measured] {
    let module = name.strip_suffix(".weight").unwrap_or_default();
    match module.rsplit('.').next() {
        Some("k_proj") => &[Measured::Key],
        Some("v_proj") => &[Measured::Value],
        Some("qkv_proj" | "query_key_value" | "c_attn") => &[Measured::Key, Measured::Value],
        _ => &[],
    }
}
