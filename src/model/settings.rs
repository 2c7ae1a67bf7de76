//! Reading config.json for a decoder: typed getters whose errors name the key.

use serde_json::Value;

use super::config::{Experts, Layer, NormKind};
use crate::backend::{Activation, Routing};
use crate::error::{Error, Result};

/// Beyond any model: what a damaged config.json must not make llmc allocate.
const LARGEST: u64 = 1 << 24;

/// A config.json.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a>(pub &'a Value);

impl Settings<'_> {
    /// A whole number under the first of `keys` that is there.
    pub fn optional(&self, keys: &[&str]) -> Result<Option<usize>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        match value.as_u64().filter(|number| *number <= LARGEST) {
            Some(number) => Ok(Some(number as usize)),
            None => Err(wrong(key, "a whole number", value)),
        }
    }

    /// A whole number that must be there, and positive.
    pub fn size(&self, keys: &[&str]) -> Result<usize> {
        match self.optional(keys)? {
            Some(0) => Err(wrong(keys[0], "a positive number", &Value::from(0))),
            Some(number) => Ok(number),
            None => Err(wrong(keys[0], "a whole number", &Value::Null)),
        }
    }

    /// A real number.
    pub fn number(&self, keys: &[&str]) -> Option<f64> {
        self.first(keys)?.1.as_f64()
    }

    /// A real number, or its default.
    pub fn number_or(&self, keys: &[&str], default: f64) -> f32 {
        self.number(keys).unwrap_or(default) as f32
    }

    /// A flag, or its default.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    /// Refuses a setting that the decoder does not follow, unless it is absent, null or false.
    pub fn refuse(&self, key: &str) -> Result<()> {
        match self.0.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(value) => {
                let what = format!("config.json: {key} = {value} is not supported by llmc's decoder");
                Err(Error::unsupported(what, "quantize, convert and verify still work on this model"))
            }
        }
    }

    /// The feed-forward's function, by transformers' name.
    pub fn activation(&self, keys: &[&str], default: Activation) -> Result<Activation> {
        let Some((key, value)) = self.first(keys) else { return Ok(default) };
        match value.as_str() {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh") => Ok(Activation::GeluTanh),
            Some("relu") => Ok(Activation::Relu),
            _ => Err(wrong(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu", value)),
        }
    }

    /// An RMSNorm's settings.
    pub fn rms_norm(&self) -> NormKind {
        let epsilon = self.number_or(&["rms_norm_eps"], 1e-6);
        NormKind { centered: false, epsilon, plus_one: false }
    }

    /// A LayerNorm's settings.
    pub fn layer_norm(&self, key: &str) -> NormKind {
        NormKind { centered: true, epsilon: self.number_or(&[key], 1e-5), plus_one: false }
    }

    /// One [`Layer`] per block: sliding where `layer_types` says so, or, where config.json has none, where `slides` does.
    pub fn layers(&self, window: Option<usize>, slides: impl Fn(usize) -> bool) -> Result<Vec<Layer>> {
        let count = self.size(&["num_hidden_layers", "n_layer"])?;
        let types = self.0.get("layer_types").and_then(Value::as_array);
        let is_sliding = |i: usize| match types.and_then(|types| types.get(i)?.as_str()) {
            Some(kind) => kind == "sliding_attention",
            None => slides(i),
        };
        let layer = |i| Layer { window: window.filter(|_| is_sliding(i)), rotary: 0 };
        Ok((0..count).map(layer).collect())
    }

    /// A mixture of experts' settings.
    pub fn experts(&self, renormalize: bool) -> Result<Option<Experts>> {
        let Some(count) = self.optional(&["num_experts", "num_local_experts"])?.filter(|n| *n > 0) else {
            return Ok(None);
        };
        let top_k = self.size(&["num_experts_per_tok"])?;
        if top_k > count {
            let expected = format!("at most {count}, the number of experts");
            return Err(wrong("num_experts_per_tok", &expected, &Value::from(top_k)));
        }
        Ok(Some(Experts { count, routing: Routing { top_k, renormalize } }))
    }

    fn first<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &Value)> {
        keys.iter().find_map(|key| Some((*key, self.0.get(*key).filter(|value| !value.is_null())?)))
    }
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    let hint = "config.json is damaged or of another model: copy the one that belongs to these weights";
    Error::malformed_tensor("config.json", key, expected, found, hint)
}
