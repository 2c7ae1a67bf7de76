//! Reading config.json for a decoder: typed getters whose errors name the key.
//!
//! A key that is absent or null has its default. A value of another type, or one that no model can have, is an error: read as
//! absent, it would leave a default in its place.

use serde_json::Value;

use crate::backend::Activation;
use crate::error::{Error, Result};

/// The largest number: beyond any model. A damaged config.json must not make llmc allocate more.
const LARGEST: u64 = 1 << 24;
/// The most decoder blocks: beyond any model.
const MOST_LAYERS: usize = 4096;

/// The keys under which an architecture's config.json has the settings that every model has. The first one that is there
/// counts; of an empty list, the default of the architecture does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SettingKeys {
    /// Width of the residual stream.
    pub hidden: &'static [&'static str],
    /// Positions that the model was made for.
    pub context: &'static [&'static str],
    /// Query heads.
    pub heads: &'static [&'static str],
    /// Key and value heads.
    pub kv_heads: &'static [&'static str],
    /// Columns of a head; of an empty list, always the width over the heads.
    pub head_dim: &'static [&'static str],
    /// True if transformers' class refuses a width that is no multiple of the query heads.
    pub heads_divide_width: bool,
    /// Channels of the feed-forward network; of an empty list, always a multiple of the width.
    pub feed_forward: &'static [&'static str],
    /// Channels of each expert of a mixture.
    pub expert_feed_forward: &'static [&'static str],
    /// The feed-forward network's function.
    pub activation: &'static [&'static str],
    /// The number that norms add to the variance.
    pub epsilon: &'static [&'static str],
}

/// A config.json.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a>(pub &'a Value);

impl Settings<'_> {
    /// Reads a whole number under the first of `keys` that is there.
    pub(crate) fn optional(&self, keys: &[&str]) -> Result<Option<usize>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        let whole = || value.as_f64().filter(|x| *x >= 0.0 && x.fract() == 0.0).map(|x| x as u64);
        match value.as_u64().or_else(whole).filter(|number| *number <= LARGEST) {
            Some(number) => Ok(Some(number as usize)),
            None => Err(wrong(key, "a whole number", value)),
        }
    }

    /// Reads a whole number that must be there, and positive.
    pub(crate) fn size(&self, keys: &[&str]) -> Result<usize> {
        match (self.first(keys), self.optional(keys)?) {
            (Some((key, _)), Some(0)) => Err(wrong(key, "a positive number", &Value::from(0))),
            (_, Some(number)) => Ok(number),
            (_, None) => Err(Error::unsupported(
                format!("config.json: no {}, without which llmc cannot run the model", keys[0]),
                "copy the config.json that belongs to these weights",
            )),
        }
    }

    /// Reads a whole number that is positive where it is there.
    pub(crate) fn optional_size(&self, keys: &[&str]) -> Result<Option<usize>> {
        if self.first(keys).is_some() { self.size(keys).map(Some) } else { Ok(None) }
    }

    /// Returns true if config.json has the key, even if it is null.
    fn mentions(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    /// Reads a real number.
    pub(crate) fn number(&self, keys: &[&str]) -> Result<Option<f64>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (*number as f32).is_finite());
        number.map(Some).ok_or_else(|| wrong(key, "a number", value))
    }

    /// Reads a real number that is at least 0 where it is there.
    pub(crate) fn not_negative(&self, keys: &[&str]) -> Result<Option<f64>> {
        let number = self.number(keys)?;
        match self.first(keys) {
            Some((key, value)) if number < Some(0.0) => Err(wrong(key, "a number of at least 0", value)),
            _ => Ok(number),
        }
    }

    /// Checks that settings are numbers above 0 where they are there.
    pub(crate) fn positive_or_absent(&self, keys: &[&str]) -> Result<()> {
        keys.iter().try_for_each(|key| match self.number(&[key])? {
            Some(number) if number <= 0.0 => Err(self.wrong(key, "a number above 0")),
            _ => Ok(()),
        })
    }

    /// Checks that a setting is a list of numbers above 0 where it is there.
    pub(crate) fn factors_or_absent(&self, key: &str) -> Result<()> {
        let Some((key, value)) = self.first(&[key]) else { return Ok(()) };
        let is_factor = |factor: &Value| factor.as_f64().is_some_and(|factor| factor > 0.0);
        let is_list = value.as_array().is_some_and(|list| list.iter().all(is_factor));
        if is_list { Ok(()) } else { Err(wrong(key, "a list of numbers above 0", value)) }
    }

    /// Returns the settings inside a setting; `None` where it is not there.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Settings<'_>>> {
        let Some((key, value)) = self.first(&[key]) else { return Ok(None) };
        if value.is_object() { Ok(Some(Settings(value))) } else { Err(wrong(key, "an object", value)) }
    }

    /// Reads a real number or null; its default where the key is not there.
    pub(crate) fn nullable(&self, key: &str, default: f64) -> Result<Option<f32>> {
        let number = if self.mentions(key) { self.number(&[key])? } else { Some(default) };
        Ok(number.map(|number| number as f32))
    }

    /// Reads a flag, or its default.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some((key, value)) = self.first(&[key]) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, "true or false", value))
    }

    /// Reads the window of sliding layers; its default where the key is not there.
    pub(crate) fn window(&self, default: Option<usize>) -> Result<Option<usize>> {
        let key = "sliding_window";
        if self.mentions(key) { self.optional(&[key]) } else { Ok(default) }
    }

    /// Reads a string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some((key, value)) = self.first(&[key]) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| wrong(key, "a text", value))
    }

    /// Refuses a setting that the decoder does not follow, unless it is absent, null or false.
    pub(crate) fn refuse(&self, key: &str) -> Result<()> {
        match self.0.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(value) => {
                let what = format!("config.json: {key} = {value} is not supported by llmc's decoder");
                Err(Error::unsupported(what, "quantize, convert and verify still work on this model"))
            }
        }
    }

    /// Reads the feed-forward network's function, by transformers' name.
    pub(crate) fn activation(&self, keys: &[&str], default: Activation) -> Result<Activation> {
        let Some((key, _)) = self.first(keys) else { return Ok(default) };
        match self.text(key)?.unwrap_or_default() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => {
                let what = format!("config.json: {key} = {other:?} is not supported by llmc's decoder");
                Err(Error::unsupported(what, "it runs silu, gelu, gelu_new, gelu_pytorch_tanh and relu"))
            }
        }
    }

    /// Reads the number of blocks.
    pub(crate) fn blocks(&self) -> Result<usize> {
        let count = self.size(&["num_hidden_layers", "n_layer"])?;
        if count > MOST_LAYERS {
            return Err(wrong("num_hidden_layers", "a number of blocks that some model has", &count.into()));
        }
        Ok(count)
    }

    /// Reads `layer_types`: true for each block with sliding attention, false for full attention. Empty if config.json has no
    /// such list.
    pub(crate) fn sliding(&self) -> Result<Vec<bool>> {
        let Some((key, value)) = self.first(&["layer_types"]) else { return Ok(Vec::new()) };
        let types = value.as_array().ok_or_else(|| wrong(key, "a list", value))?;
        let is_sliding = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let what = format!("config.json: a layer of type {kind}");
                Err(Error::unsupported(what, "llmc runs layers of full and of sliding attention"))
            }
        };
        types.iter().map(is_sliding).collect()
    }

    /// Returns the error for a setting that has a wrong value.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> Error {
        wrong(key, expected, self.0.get(key).unwrap_or(&Value::Null))
    }

    fn first<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &Value)> {
        keys.iter().find_map(|key| Some((*key, self.0.get(*key).filter(|value| !value.is_null())?)))
    }
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    let hint = "config.json is damaged or of another model: copy the one that belongs to these weights";
    Error::malformed_tensor("config.json", key, expected, found, hint)
}
