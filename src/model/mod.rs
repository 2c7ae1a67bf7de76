//! Architectures: what each calls its tensors and its settings, how GGUF stores them, and how [`Decoder`], the one forward
//! pass, is configured for it. One file per family, one entry of [`ARCHITECTURES`] per model. Knows no scheme, reads no
//! file: `io::gguf` and `export::gguf` walk these tables, `engine` brings the weights.

mod bert;
mod block;
mod bloom;
mod cache;
mod config;
mod decoder;
mod embedding;
mod experts;
mod gemma;
mod gpt2;
mod gpt_neox;
mod layout;
mod llama;
mod names;
mod olmo;
mod opt;
mod phi3;
mod qwen;
pub mod rope;
mod rotary;
mod settings;
mod stablelm;
mod transform;
mod weights;

use serde_json::{Map, Value};

pub use block::Block;
pub use cache::Cache;
pub use config::{Config, Layer};
pub use decoder::{Batch, Decoder};
pub use embedding::Embedding;
pub use layout::{BlockLayout, Feeder, Fold, LinearPlace, ModelEnds, NormPlace, block_layout, model_ends};
pub use names::{Name, Numbers};
pub use rotary::Rotary;
use settings::Settings;
pub use transform::Transform;
pub use weights::Weights;

use crate::error::{Error, Result};

/// Every architecture that llmc can run. Where two share GGUF's name, they differ in whether they have experts.
pub const ARCHITECTURES: &[&Arch] = &[
    &llama::LLAMA,
    &llama::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN2_MOE,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::PHI3,
    &olmo::OLMO2,
    &olmo::OLMOE,
    &stablelm::STABLELM,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &opt::OPT,
    &bloom::BLOOM,
    &bert::BERT,
];

/// An architecture: plain tables, and one hook for what tables cannot say.
#[derive(Debug)]
pub struct Arch {
    /// Hugging Face `model_type` and class of the models that it covers; the first is what a GGUF is rebuilt as.
    pub models: &'static [(&'static str, &'static str)],
    /// What config.json says of the forward pass.
    decoder: fn(&Settings) -> Result<Config>,
    /// `general.architecture` of a GGUF, and the prefix of its settings' keys; empty where llmc reads and writes no GGUF of
    /// it, as is all that follows.
    pub gguf: &'static str,
    /// Tensor names.
    pub names: &'static [&'static [Name]],
    /// Settings.
    pub keys: &'static [&'static [Key]],
    /// What config.json says of every such model and GGUF does not say.
    pub fixed: &'static [(&'static str, Fixed)],
    /// How its tensors differ in GGUF.
    pub changes: Changes,
    /// Whether its layers have experts.
    pub experts: bool,
    /// Whether the output head is the embedding where config.json does not say.
    pub tied_by_default: bool,
    /// Completes a config.json rebuilt from a GGUF.
    pub complete: fn(&mut Map<String, Value>, &Has),
}

/// How a family's tensors differ between Hugging Face and GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Not at all.
    None,
    /// q and k are permuted for the interleaved rope (Llama).
    Rope,
    /// Norm weights are stored plus one (Gemma).
    Norms,
}

/// A setting's name on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// In config.json.
    pub hf: &'static str,
    /// In GGUF, without the architecture's prefix.
    pub gguf: &'static str,
    /// Its type in GGUF.
    pub kind: Kind,
    /// What its absence from config.json means.
    pub missing: Missing,
}

/// Type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// u32.
    Int,
    /// f32.
    Float,
    /// bool.
    Bool,
}

/// What the absence of a setting from config.json means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Missing {
    /// The model cannot be described without it.
    Refuse,
    /// GGUF does without it too.
    Omit,
    /// The value of another setting.
    Copy(&'static str),
    /// The default of transformers' configuration class.
    Int(u64),
    /// Likewise.
    Float(f64),
    /// Likewise.
    Bool(bool),
}

/// A constant setting.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Fixed {
    Int(u64),
    Float(f64),
    Bool(bool),
    Text(&'static str),
}

impl Fixed {
    /// As JSON.
    pub fn json(self) -> Value {
        match self {
            Fixed::Int(value) => value.into(),
            Fixed::Float(value) => value.into(),
            Fixed::Bool(value) => value.into(),
            Fixed::Text(value) => value.into(),
        }
    }
}

/// Says whether a GGUF has a tensor of some name: what [`Arch::complete`] may look at.
pub type Has<'a> = dyn Fn(&str) -> bool + 'a;

/// For [`Arch::complete`]: nothing to add.
pub(crate) fn complete(_: &mut Map<String, Value>, _: &Has) {}

/// A setting that every model gives.
pub(crate) const fn int(hf: &'static str, gguf: &'static str) -> Key {
    Key { hf, gguf, kind: Kind::Int, missing: Missing::Refuse }
}

/// A real setting that every model gives.
pub(crate) const fn float(hf: &'static str, gguf: &'static str) -> Key {
    Key { hf, gguf, kind: Kind::Float, missing: Missing::Refuse }
}

impl Key {
    /// The same setting, with a meaning for its absence.
    pub(crate) const fn or(self, missing: Missing) -> Key {
        Key { missing, ..self }
    }
}

/// What nearly every decoder has.
pub(crate) const DECODER_KEYS: &[Key] = &[
    int("max_position_embeddings", "context_length"),
    int("hidden_size", "embedding_length"),
    int("num_hidden_layers", "block_count"),
    int("intermediate_size", "feed_forward_length"),
    int("num_attention_heads", "attention.head_count"),
    int("num_key_value_heads", "attention.head_count_kv").or(Missing::Copy("num_attention_heads")),
];

/// Root-mean-square norms.
pub(crate) const RMS_KEYS: &[Key] =
    &[float("rms_norm_eps", "attention.layer_norm_rms_epsilon").or(Missing::Float(1e-6))];

/// A head size that need not be hidden_size / heads.
pub(crate) const HEAD_KEYS: &[Key] = &[
    int("head_dim", "attention.key_length").or(Missing::Omit),
    int("head_dim", "attention.value_length").or(Missing::Omit),
];

/// Where a Hugging Face tensor is in a GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The GGUF tensor.
    pub name: String,
    /// Which part of it, where it stacks several.
    pub part: Option<usize>,
}

/// What a GGUF tensor holds.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    row: &'static Name,
    numbers: Numbers,
    suffix: &'a str,
}

impl Content<'_> {
    /// Whether it holds several Hugging Face tensors, one after the other.
    pub fn is_stacked(&self) -> bool {
        self.row.is_stacked()
    }

    /// The Hugging Face shape of each tensor it holds.
    pub fn hf_shape(&self, stored: &[usize]) -> Vec<usize> {
        match stored {
            [_, part @ ..] if self.is_stacked() => part.to_vec(),
            [columns] if self.row.gguf == qwen::SQUEEZED => vec![1, *columns],
            _ => stored.to_vec(),
        }
    }

    /// The Hugging Face name, of part `part` where it is stacked.
    pub fn hf_name(&self, part: usize) -> String {
        names::fill(self.row.hf, Numbers { part: Some(part), ..self.numbers }, self.suffix)
    }
}

impl Arch {
    /// An architecture without a GGUF form.
    const HUGGING_FACE_ONLY: Arch = Arch {
        models: &[],
        decoder: llama::decoder,
        gguf: "",
        names: &[],
        keys: &[],
        fixed: &[],
        changes: Changes::None,
        experts: false,
        tied_by_default: false,
        complete,
    };

    /// What a GGUF tensor holds; `None` for names that the architecture does not have.
    pub fn content<'a>(&self, gguf: &'a str) -> Option<Content<'a>> {
        self.names.iter().copied().flatten().find_map(|row| {
            let (numbers, suffix) = names::matches(row.gguf, gguf)?;
            Some(Content { row, numbers, suffix })
        })
    }

    /// Where a Hugging Face tensor goes; `None` for names that the architecture does not have.
    pub fn place(&self, hf: &str) -> Option<Place> {
        self.names.iter().copied().flatten().find_map(|row| {
            let (numbers, suffix) = names::matches(row.hf, hf)?;
            Some(Place { name: names::fill(row.gguf, numbers, suffix), part: numbers.part })
        })
    }

    /// What GGUF does to a Hugging Face tensor of a model with so many query and key/value heads.
    pub fn transform(&self, hf: &str, heads: usize, kv_heads: usize) -> Transform {
        let ends = |suffix: &str| hf.ends_with(suffix);
        match self.changes {
            Changes::Norms if ends("norm.weight") => Transform::AddOne,
            Changes::Rope if ends(".q_proj.weight") => Transform::PermuteRope { heads },
            Changes::Rope if ends(".k_proj.weight") => Transform::PermuteRope { heads: kv_heads },
            Changes::Rope if ends(".q_proj.bias") => Transform::PermuteRopeBias { heads },
            Changes::Rope if ends(".k_proj.bias") => Transform::PermuteRopeBias { heads: kv_heads },
            _ => Transform::None,
        }
    }

    /// All its settings.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().copied().flatten()
    }
}

/// The architecture that config.json's `model_type` names.
fn find(config: &Value) -> Option<&'static Arch> {
    let model_type = config.get("model_type")?.as_str()?;
    ARCHITECTURES.iter().copied().find(|arch| arch.models.iter().any(|(name, _)| *name == model_type))
}

/// The architecture that config.json's `model_type` names, where it has a GGUF form.
pub fn find_hf(config: &Value) -> Option<&'static Arch> {
    find(config).filter(|arch| !arch.gguf.is_empty())
}

/// How the decoder runs the model that config.json describes.
///
/// # Errors
/// [`Error::Unsupported`] where llmc does not know the architecture, or not one of its settings; [`Error::Malformed`] where
/// a setting is missing or absurd.
pub fn configure(config: &Value) -> Result<Config> {
    let arch = find(config).ok_or_else(|| {
        let found =
            config.get("model_type").and_then(Value::as_str).unwrap_or("no model_type in config.json");
        let what = format!("llmc cannot run this architecture: {found}");
        let hint = format!("it runs {}; inspect, plan, quantize, convert and verify work on any", runnable());
        Error::unsupported(what, hint)
    })?;
    let mut decoder = (arch.decoder)(&Settings(config))?;
    decoder.tied = Settings(config).flag("tie_word_embeddings", arch.tied_by_default)?;
    decoder.validate()?;
    Ok(decoder)
}

fn runnable() -> String {
    types(ARCHITECTURES.iter())
}

/// The architecture that a GGUF names, with or without experts.
pub fn find_gguf(name: &str, experts: bool) -> Option<&'static Arch> {
    let named = || ARCHITECTURES.iter().copied().filter(|arch| arch.gguf == name);
    named().find(|arch| arch.experts == experts).or_else(|| named().next())
}

/// The model types that have a GGUF form, for hints.
pub fn known() -> String {
    types(ARCHITECTURES.iter().filter(|arch| !arch.gguf.is_empty()))
}

fn types<'a>(archs: impl Iterator<Item = &'a &'static Arch>) -> String {
    archs.flat_map(|arch| arch.models).map(|(model_type, _)| *model_type).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
