//! An architecture: the outline of its models, and their form in GGUF. Plain data, and look-ups in it.

use serde_json::{Map, Value};

use super::description::{Model, Outline};
use super::feed_forward::FeedForward;
use super::names::{self, Network, Numbers, TensorName, TensorRole};
use super::settings::Settings;
use super::transform::Transform;
use super::weights::OTHER_BASES;
use crate::error::Result;

/// An architecture: tables, and two functions for everything that does not fit into tables.
#[derive(Debug)]
pub struct Arch {
    /// Hugging Face `model_type` and class of the models that it covers; a GGUF is rebuilt as the first.
    pub models: &'static [(&'static str, &'static str)],
    /// Names and defaults.
    pub outline: Outline,
    /// Changes the description by settings that only such models have.
    pub adjust: fn(&Settings, &mut Model) -> Result<()>,
    /// The form of its models in GGUF.
    pub gguf: GgufForm,
}

/// The form of an architecture's models in GGUF. Tensor names follow from their roles.
#[derive(Debug)]
pub struct GgufForm {
    /// `general.architecture`, and the prefix of its settings' keys; empty where llmc reads and writes no GGUF of it.
    pub name: &'static str,
    /// Settings.
    pub keys: &'static [&'static [Key]],
    /// Settings of every such model that config.json has and GGUF does not have.
    pub fixed: &'static [(&'static str, Fixed)],
    /// The difference of its tensors in GGUF.
    pub changes: Changes,
    /// Completes a config.json rebuilt from a GGUF.
    pub complete: fn(&mut Map<String, Value>, &HasTensor),
}

impl GgufForm {
    /// No form in GGUF.
    pub(crate) const NONE: GgufForm =
        GgufForm { name: "", keys: &[], fixed: &[], changes: Changes::None, complete };
}

/// The difference of a family's tensors between Hugging Face and GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// None.
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
    pub kind: KeyType,
    /// The meaning of its absence from config.json.
    pub missing: Missing,
}

/// Type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// u32.
    Int,
    /// f32.
    Float,
    /// bool.
    Bool,
}

/// The meaning of the absence of a setting from config.json.
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
    /// Returns it as JSON.
    pub(crate) fn json(self) -> Value {
        match self {
            Fixed::Int(value) => value.into(),
            Fixed::Float(value) => value.into(),
            Fixed::Bool(value) => value.into(),
            Fixed::Text(value) => value.into(),
        }
    }
}

/// Returns true if a GGUF has a tensor of some name: all that [`GgufForm::complete`] may look at.
pub(crate) type HasTensor<'a> = dyn Fn(&str) -> bool + 'a;

/// Changes nothing, for [`Arch::adjust`].
pub(super) fn adjust(_: &Settings, _: &mut Model) -> Result<()> {
    Ok(())
}

/// Adds nothing, for [`GgufForm::complete`].
pub(super) fn complete(_: &mut Map<String, Value>, _: &HasTensor) {}

/// Returns the key of a whole number that every model gives.
pub(super) const fn int(hf: &'static str, gguf: &'static str) -> Key {
    Key { hf, gguf, kind: KeyType::Int, missing: Missing::Refuse }
}

/// Returns the key of a real number that every model gives.
pub(super) const fn float(hf: &'static str, gguf: &'static str) -> Key {
    Key { hf, gguf, kind: KeyType::Float, missing: Missing::Refuse }
}

impl Key {
    /// Returns the same key, with a meaning for its absence.
    pub(super) const fn or(self, missing: Missing) -> Key {
        Key { missing, ..self }
    }
}

/// The settings of nearly every decoder.
pub(super) const DECODER_KEYS: &[Key] = &[
    int("max_position_embeddings", "context_length"),
    int("hidden_size", "embedding_length"),
    int("num_hidden_layers", "block_count"),
    int("intermediate_size", "feed_forward_length"),
    int("num_attention_heads", "attention.head_count"),
    int("num_key_value_heads", "attention.head_count_kv").or(Missing::Copy("num_attention_heads")),
];

/// Root-mean-square norms.
pub(super) const RMS_KEYS: &[Key] =
    &[float("rms_norm_eps", "attention.layer_norm_rms_epsilon").or(Missing::Float(1e-6))];

/// A head size that need not be hidden_size / heads.
pub(super) const HEAD_KEYS: &[Key] = &[
    int("head_dim", "attention.key_length").or(Missing::Omit),
    int("head_dim", "attention.value_length").or(Missing::Omit),
];

/// The place of a Hugging Face tensor in a GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufPlace {
    /// The GGUF tensor.
    pub name: String,
    /// The part of it, where it stacks several.
    pub part: Option<usize>,
}

/// The content of a GGUF tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgufContent<'a> {
    base: &'static str,
    tensor: TensorName,
    numbers: Numbers,
    suffix: &'a str,
}

impl GgufContent<'_> {
    /// Returns true if it holds several Hugging Face tensors, one after the other.
    pub(crate) fn is_stacked(&self) -> bool {
        self.tensor.is_stacked()
    }

    /// Returns the Hugging Face shape of each tensor it holds.
    pub(crate) fn hf_shape(&self, stored: &[usize]) -> Vec<usize> {
        match stored {
            [_, part @ ..] if self.is_stacked() => part.to_vec(),
            // One row in Hugging Face; a vector in GGUF.
            [columns] if self.tensor.role == TensorRole::SharedExpertGate => vec![1, *columns],
            _ => stored.to_vec(),
        }
    }

    /// Returns the Hugging Face name, of part `part` where it is stacked.
    pub(crate) fn hf_name(&self, part: usize) -> String {
        let name = names::fill(self.tensor.hf, Numbers { part: Some(part), ..self.numbers }, self.suffix);
        if self.tensor.role == TensorRole::Head { name } else { format!("{}{name}", self.base) }
    }
}

/// A Hugging Face tensor of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownTensor<'a> {
    /// Its role.
    pub role: TensorRole,
    /// The pattern of its name, without the architecture's prefix.
    pub pattern: &'static str,
    /// The numbers in its name.
    pub numbers: Numbers,
    /// The end of its name: `weight` or `bias`.
    pub suffix: &'a str,
}

impl KnownTensor<'_> {
    /// Returns the full name of the same tensor of another layer, or of another part.
    pub(crate) fn renumbered(&self, full: &str, numbers: Numbers) -> String {
        let own = names::fill(self.pattern, self.numbers, self.suffix);
        let base = full.strip_suffix(&own).unwrap_or_default();
        format!("{base}{}", names::fill(self.pattern, numbers, self.suffix))
    }
}

impl Arch {
    /// Returns true if it has a form in GGUF.
    pub fn has_gguf(&self) -> bool {
        !self.gguf.name.is_empty()
    }

    /// Returns true if its layers have experts.
    pub(crate) fn has_experts(&self) -> bool {
        self.has(TensorRole::Router)
    }

    /// Returns true if its outline has a tensor of this role.
    pub(crate) fn has(&self, role: TensorRole) -> bool {
        self.outline.tensors().iter().any(|tensor| tensor.role == role)
    }

    /// Returns the content of a GGUF tensor; `None` for names that the architecture does not have.
    pub(crate) fn content<'a>(&self, gguf: &'a str) -> Option<GgufContent<'a>> {
        self.outline.tensors().into_iter().find_map(|tensor| {
            let (numbers, suffix) = names::matches(tensor.role.gguf()?, gguf)?;
            Some(GgufContent { base: self.outline.frame.base, tensor, numbers, suffix })
        })
    }

    /// Returns the place of a Hugging Face tensor in a GGUF; `None` for names that the architecture does not have.
    pub(crate) fn place(&self, hf: &str) -> Option<GgufPlace> {
        let KnownTensor { role, numbers, suffix, .. } = self.tensor(hf)?;
        Some(GgufPlace { name: names::fill(role.gguf()?, numbers, suffix), part: numbers.part })
    }

    /// Returns the tensor of a full Hugging Face name, whether the file has a bare model or a text model within a larger one;
    /// `None` for names that the architecture does not have.
    pub(crate) fn tensor<'a>(&self, hf: &'a str) -> Option<KnownTensor<'a>> {
        self.find(&self.outline.tensors(), hf)
    }

    fn find<'a>(&self, tensors: &[TensorName], hf: &'a str) -> Option<KnownTensor<'a>> {
        let frame = &self.outline.frame;
        let matched = |tensor: &TensorName, base: &str| {
            let base = if tensor.role == TensorRole::Head { "" } else { base };
            let (numbers, suffix) = names::matches(tensor.hf, hf.strip_prefix(base)?)?;
            Some(KnownTensor { role: tensor.role, pattern: tensor.hf, numbers, suffix })
        };
        let bases = std::iter::once(&frame.base).chain(OTHER_BASES);
        bases.into_iter().find_map(|base| tensors.iter().find_map(|tensor| matched(tensor, base)))
    }

    /// Returns true if its models load a weight of this name: a tensor of the outline, or of the network that blocks without a
    /// router have in the place of experts.
    pub(crate) fn loads(&self, hf: &str) -> bool {
        self.loaded(hf).is_some()
    }

    /// Returns the tensor of a name that [`Arch::loads`].
    pub(crate) fn loaded<'a>(&self, hf: &'a str) -> Option<KnownTensor<'a>> {
        let FeedForward::Experts(experts) = self.outline.layer.feed_forward else { return self.tensor(hf) };
        self.tensor(hf).or_else(|| self.find(&experts.dense.tensors(Network::Dense), hf))
    }

    /// Returns the change that GGUF makes to a Hugging Face tensor of a model with so many query and key/value heads.
    pub(crate) fn transform(&self, hf: &str, heads: usize, kv_heads: usize) -> Transform {
        let Some(KnownTensor { role, suffix, .. }) = self.tensor(hf) else { return Transform::None };
        let heads = if role == TensorRole::Key { kv_heads } else { heads };
        let rotated = matches!(role, TensorRole::Query | TensorRole::Key);
        match (self.gguf.changes, suffix) {
            (Changes::Norms, "weight") if role.is_norm() => Transform::AddOne,
            (Changes::Rope, "weight") if rotated => Transform::PermuteRope { heads },
            (Changes::Rope, "bias") if rotated => Transform::PermuteRopeBias { heads },
            _ => Transform::None,
        }
    }

    /// Returns all its settings.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.gguf.keys.iter().copied().flatten()
    }
}
