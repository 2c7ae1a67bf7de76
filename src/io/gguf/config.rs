//! config.json ↔ the architecture's metadata: the settings of [`crate::model`]'s tables, and the rope.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::value::{Metadata, Value, typed};
use crate::error::{Error, Result};
use crate::model::rope::{Llama3, LongRope, Rope, Scaling, Yarn};
use crate::model::{Arch, Key, KeyType, Missing, Settings};

/// Tensors that carry settings rather than weights: consumed by [`from_metadata`], made by [`setting_tensors`].
pub(crate) const SETTING_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// The largest head that is rotated: far beyond any model's, and little memory.
const MAX_HEAD_DIM: u64 = 1 << 16;

/// The parts of a GGUF that config.json is rebuilt from.
pub(super) struct Input<'a> {
    pub file: &'a Path,
    pub metadata: &'a Metadata,
    /// Rows of the embedding.
    pub vocab_size: Option<usize>,
    /// True if there is a tensor of this name.
    pub has: &'a dyn Fn(&str) -> bool,
    /// The values of an F32 tensor.
    pub values: &'a dyn Fn(&str) -> Option<Vec<f32>>,
}

impl Input<'_> {
    fn get(&self, arch: &Arch, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", arch.gguf.name))
    }

    /// A number above 0, or 0: a missing value, by some writers.
    fn number(&self, arch: &Arch, key: &str) -> Result<Option<f64>> {
        let positive = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        typed(
            self.file,
            self.metadata,
            &format!("{}.{key}", arch.gguf.name),
            "a number of at least 0",
            positive,
        )
    }

    fn token(&self, key: &str) -> Option<u64> {
        self.metadata.get(&format!("tokenizer.ggml.{key}_token_id"))?.as_u64()
    }
}

/// Rebuilds config.json.
///
/// # Errors
/// [`Error::Malformed`] where a setting that the model cannot do without is missing or of the wrong type.
pub(super) fn from_metadata(arch: &Arch, input: &Input) -> Result<Json> {
    let mut config = Map::new();
    let (model_type, class) = arch.models[0];
    config.insert("architectures".into(), vec![class].into());
    config.insert("model_type".into(), model_type.into());
    for key in arch.keys() {
        read_key(arch, key, input, &mut config)?;
    }
    read_head_dim(arch, input, &mut config);
    insert_head_dim(arch, &mut config);
    config.extend(arch.gguf.fixed.iter().map(|(key, value)| ((*key).to_owned(), value.json())));
    if let Some(vocab_size) = input.vocab_size {
        config.insert("vocab_size".into(), vocab_size.into());
    }
    config.insert("tie_word_embeddings".into(), (!(input.has)("output.weight")).into());
    for key in ["bos", "eos", "padding"] {
        let id = input.token(key).map_or(Json::Null, Json::from);
        config.insert(format!("{}_token_id", key.trim_end_matches("ding")), id);
    }
    read_rope(arch, input, &config)?.write(&mut config);
    (arch.gguf.complete)(&mut config, input.has);
    Ok(Json::Object(config))
}

fn read_key(arch: &Arch, key: &Key, input: &Input, config: &mut Map<String, Json>) -> Result<()> {
    let refuse = |found: &str| bad_key(arch, key, input.file, found);
    let value = match (input.get(arch, key.gguf), key.missing) {
        (Some(value), _) => {
            json(key.kind, &uniform(arch, key, value)?).ok_or_else(|| refuse(&format!("{value:?}")))?
        }
        (None, Missing::Refuse) => return Err(refuse("no such key")),
        (None, Missing::Omit) => return Ok(()),
        (None, Missing::Copy(other)) => config.get(other).cloned().ok_or_else(|| refuse("no such key"))?,
        (None, Missing::Int(value)) => value.into(),
        (None, Missing::Float(value)) => value.into(),
        (None, Missing::Bool(value)) => value.into(),
    };
    config.insert(key.hf.to_owned(), value);
    Ok(())
}

fn bad_key(arch: &Arch, key: &Key, file: &Path, found: &str) -> Error {
    let expected = format!("a value of type {:?}", key.kind);
    let hint = "the metadata are incomplete: convert the model again with a current llama.cpp";
    Error::malformed_tensor(file, format!("{}.{}", arch.gguf.name, key.gguf), expected, found, hint)
}

/// A setting given per layer, where all layers agree.
fn uniform(arch: &Arch, key: &Key, value: &Value) -> Result<Value> {
    let differs = match value {
        Value::Array(super::Array::U32(v)) => v.windows(2).any(|pair| pair[0] != pair[1]),
        Value::Array(super::Array::I32(v)) => v.windows(2).any(|pair| pair[0] != pair[1]),
        _ => false,
    };
    if differs {
        let what = format!("{}.{} differs from layer to layer", arch.gguf.name, key.gguf);
        return Err(Error::unsupported(what, "llmc has no architecture with layers of different shapes yet"));
    }
    Ok(value.first().unwrap_or_else(|| value.clone()))
}

fn json(kind: KeyType, value: &Value) -> Option<Json> {
    match kind {
        KeyType::Int => value.as_u64().map(Json::from),
        KeyType::Float => value.as_f64().filter(|value| value.is_finite()).map(Json::from),
        KeyType::Bool => value.as_bool().map(Json::from),
    }
}

/// The size of a head, of an architecture whose GGUFs leave it out where it is the obvious one.
const HEAD_LENGTHS: [&str; 2] = ["attention.key_length", "attention.value_length"];

/// Heads of another size than the obvious one are left where some were cut.
fn write_head_dim(arch: &Arch, config: &Json, metadata: &mut Metadata) {
    let get = |key: &str| config.get(key).and_then(Json::as_u64);
    let obvious = get("hidden_size").zip(get("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
    let Some(dim) = get("head_dim").filter(|dim| Some(*dim) != obvious && *dim <= u64::from(u32::MAX)) else {
        return;
    };
    for key in HEAD_LENGTHS {
        metadata.entry(format!("{}.{key}", arch.gguf.name)).or_insert(Value::U32(dim as u32));
    }
}

fn read_head_dim(arch: &Arch, input: &Input, config: &mut Map<String, Json>) {
    let stored = input.get(arch, HEAD_LENGTHS[0]).and_then(Value::as_u64);
    if let Some(dim) = stored.filter(|dim| head_dim(config) != Some(*dim)) {
        config.insert("head_dim".into(), dim.into());
    }
}

/// GGUF leaves the head size out where it is the obvious one; transformers' defaults are not always the obvious one.
fn insert_head_dim(arch: &Arch, config: &mut Map<String, Json>) {
    let wanted = arch.keys().any(|key| key.hf == "head_dim") && !config.contains_key("head_dim");
    if let Some(dim) = head_dim(config).filter(|_| wanted) {
        config.insert("head_dim".into(), dim.into());
    }
}

/// The size of a head: given, or hidden_size / heads.
fn head_dim(config: &Map<String, Json>) -> Option<u64> {
    let get = |key: &str| config.get(key).and_then(Json::as_u64);
    get("head_dim").or_else(|| get("hidden_size")?.checked_div(get("num_attention_heads")?))
}

fn read_rope(arch: &Arch, input: &Input, config: &Map<String, Json>) -> Result<Rope> {
    let theta = input.number(arch, "rope.freq_base")?.unwrap_or(10_000.0);
    let rotated = input.number(arch, "rope.dimension_count")?;
    let partial = rotated.zip(head_dim(config).filter(|dim| *dim > 0)).map(|(r, dim)| r / dim as f64);
    let partial = partial.filter(|part| *part > 0.0 && *part < 1.0);
    Ok(Rope { theta, partial, scaling: read_scaling(arch, input, theta)? })
}

fn read_scaling(arch: &Arch, input: &Input, theta: f64) -> Result<Option<Scaling>> {
    if let Some(factors) = (input.values)("rope_freqs.weight") {
        let context = input.get(arch, "context_length").and_then(Value::as_u64);
        return Ok(read_factors(factors, theta, context));
    }
    let long = (input.values)("rope_factors_long.weight");
    if let Some((long, short)) = long.zip((input.values)("rope_factors_short.weight")) {
        return Ok(Some(Scaling::LongRope(LongRope::new(short, long))));
    }
    let key = |key: &str| format!("{}.rope.{key}", arch.gguf.name);
    let whole = |name: &str| typed(input.file, input.metadata, &key(name), "a whole number", Value::as_u64);
    let kind = typed(input.file, input.metadata, &key("scaling.type"), "a text", Value::as_str)?;
    let old = input.number(arch, "rope.scale_linear")?.map(|factor| Scaling::Linear { factor });
    let factor = input.number(arch, "rope.scaling.factor")?.unwrap_or(1.0);
    let original = whole("scaling.original_context_length")?;
    Ok(match kind {
        Some("linear") => Some(Scaling::Linear { factor }),
        Some("yarn") => Some(Scaling::Yarn(Yarn::new(factor, original))),
        _ => old.filter(|scaling| *scaling != Scaling::Linear { factor: 1.0 }),
    })
}

/// The scaling that divides frequencies by these factors. Those of no released model are kept as they are, in LongRoPE's form:
/// a divisor for each frequency.
fn read_factors(factors: Vec<f32>, theta: f64, context: Option<u64>) -> Option<Scaling> {
    if factors.iter().all(|factor| *factor == 1.0) {
        return None;
    }
    Some(match Llama3::recognize(&factors, theta) {
        Some(llama3) => Scaling::Llama3(llama3),
        None => Scaling::LongRope(LongRope {
            original: context,
            attention_factor: Some(1.0),
            ..LongRope::new(factors.clone(), factors)
        }),
    })
}

/// The architecture's metadata of a config.json, its name included.
///
/// # Errors
/// [`Error::Unsupported`] where a setting that the model cannot do without is missing, [`Error::Malformed`] where the size
/// of its heads is absurd.
pub fn to_metadata(arch: &Arch, config: &Json) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture".into(), Value::String(arch.gguf.name.to_owned()));
    for key in arch.keys() {
        if let Some(value) = written(key, config)? {
            metadata.insert(format!("{}.{}", arch.gguf.name, key.gguf), value);
        }
    }
    write_head_dim(arch, config, &mut metadata);
    write_rope(arch, config, &mut metadata)?;
    if let Some(vocab) = config.get("vocab_size").and_then(Json::as_u64) {
        metadata.insert(format!("{}.vocab_size", arch.gguf.name), Value::U32(vocab as u32));
    }
    Ok(metadata)
}

fn written(key: &Key, config: &Json) -> Result<Option<Value>> {
    let given = |name: &str| config.get(name).filter(|value| !value.is_null()).cloned();
    let value = match (given(key.hf), key.missing) {
        (Some(value), _) => value,
        (None, Missing::Omit) => return Ok(None),
        (None, Missing::Copy(other)) => given(other).ok_or_else(|| missing_setting(other))?,
        (None, Missing::Int(value)) => value.into(),
        (None, Missing::Float(value)) => value.into(),
        (None, Missing::Bool(value)) => value.into(),
        (None, Missing::Refuse) => return Err(missing_setting(key.hf)),
    };
    let value = match key.kind {
        KeyType::Int => value.as_u64().and_then(|v| u32::try_from(v).ok()).map(Value::U32),
        KeyType::Float => value.as_f64().map(|v| Value::F32(v as f32)),
        KeyType::Bool => value.as_bool().map(Value::Bool),
    };
    value.map(Some).ok_or_else(|| missing_setting(key.hf))
}

fn missing_setting(key: &str) -> Error {
    let hint = "GGUF needs the model's config.json, complete: copy it beside the weights";
    Error::unsupported(format!("config.json has no usable `{key}`"), hint)
}

fn write_rope(arch: &Arch, config: &Json, metadata: &mut Metadata) -> Result<()> {
    Rope::check(&Settings(config))?;
    let rope = Rope::from_config(config);
    let mut put = |key: &str, value: Value| metadata.insert(format!("{}.rope.{key}", arch.gguf.name), value);
    put("freq_base", Value::F32(rope.theta as f32));
    if let Some(rotated) = rotated(config, &rope)? {
        put("dimension_count", Value::U32(rotated as u32));
    }
    let mut scaled = |kind: &str, factor: f64| {
        put("scaling.type", Value::String(kind.to_owned()));
        put("scaling.factor", Value::F32(factor as f32));
    };
    match rope.scaling {
        Some(Scaling::Linear { factor }) => scaled("linear", factor),
        Some(Scaling::Yarn(yarn)) => {
            scaled("yarn", yarn.factor.unwrap_or(1.0));
            let context = config.get("max_position_embeddings").and_then(Json::as_u64);
            if let Some(original) = yarn.original.or(context) {
                put("scaling.original_context_length", Value::U32(original as u32));
            }
        }
        Some(Scaling::LongRope(long)) if is_plain(&long) => {}
        Some(Scaling::LongRope(_)) => {
            put("scaling.attn_factor", Value::F32(long_attention_factor(config) as f32));
        }
        Some(Scaling::Dynamic { .. }) => {
            tracing::warn!("GGUF has no form for dynamic rope scaling: left out")
        }
        Some(Scaling::Other(kind)) => {
            tracing::warn!(kind, "GGUF has no form for this rope scaling: left out")
        }
        Some(Scaling::Llama3(_)) | None => {}
    }
    Ok(())
}

/// The rotated dimensions of a head.
fn rotated(config: &Json, rope: &Rope) -> Result<Option<usize>> {
    let Some(dim) = config.as_object().and_then(head_dim) else { return Ok(None) };
    if dim > MAX_HEAD_DIM {
        let key = if config.get("head_dim").is_some() { "head_dim" } else { "hidden_size" };
        return Err(absurd(key, &format!("heads of at most {MAX_HEAD_DIM}"), dim));
    }
    let partial = rope.partial.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&partial) {
        return Err(absurd("partial_rotary_factor", "a part from 0 to 1", partial));
    }
    Ok(Some((dim as f64 * partial) as usize))
}

fn absurd(key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let hint = "config.json is damaged or of another model: copy the one that belongs to these weights";
    Error::malformed_tensor("config.json", key, expected, found, hint)
}

/// LongRoPE's scale of attention: √(1 + ln s / ln L) where the context L was stretched s times.
fn long_attention_factor(config: &Json) -> f64 {
    let get = |key: &str| config.get(key).and_then(Json::as_f64);
    let Some(long) = get("max_position_embeddings") else { return 1.0 };
    let original = get("original_max_position_embeddings").unwrap_or(long);
    let scale = long / original;
    if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 }
}

/// Returns true for divisors that hold at any length: what [`read_factors`] makes of `rope_freqs.weight`.
fn is_plain(long: &LongRope) -> bool {
    long.short == long.long && long.attention_factor == Some(1.0)
}

/// The tensors that carry settings: (name, values).
///
/// # Errors
/// [`Error::Malformed`] where config.json gives heads of a size that no model has.
pub fn setting_tensors(config: &Json) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let rope = Rope::from_config(config);
    Ok(match (&rope.scaling, rotated(config, &rope)?) {
        (Some(Scaling::Llama3(llama3)), Some(rotated)) => {
            vec![(SETTING_TENSORS[0], llama3.factors(rope.theta, rotated))]
        }
        (Some(Scaling::LongRope(long)), _) if is_plain(long) => {
            vec![(SETTING_TENSORS[0], long.short.clone())]
        }
        (Some(Scaling::LongRope(long)), _) => {
            vec![(SETTING_TENSORS[1], long.long.clone()), (SETTING_TENSORS[2], long.short.clone())]
        }
        _ => Vec::new(),
    })
}
