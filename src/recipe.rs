//! `Recipe`: what the user asks for, parsed without effects. Command-line flags and TOML give the same struct; the text
//! travels in the output's metadata, so that `verify` can do the same work again.

mod calibration;
mod per_format;
pub mod schemes;
mod shipped;
mod surgery;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::error::{Error, Result};
use crate::names::nearest_key;
use crate::numerics::ggml::integers;
use crate::numerics::{Number, Pattern};
use crate::similar::same;
use schemes::{adjust, find_preset};

pub use calibration::Calibration;
pub use per_format::PerFormat;
pub use shipped::{CALIBRATED_4_BITS, SHIPPED};
pub(crate) use surgery::of_each;
pub use surgery::{Kept, Surgery};

/// The compression of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// A preset's name: `w4a16`, `q4_k`, …; `None` to convert only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Columns per scale, for integer and NF4 schemes; 0 for one scale per row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Without zero points, for integer schemes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    /// A name from FORMATS; `None` for what the scheme usually goes into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Type of what is not quantized; `None` keeps each tensor's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Globs over tensor names: quantize these even where a rule leaves them alone.
    pub include: Vec<String>,
    /// Globs over tensor names: leave these alone.
    pub exclude: Vec<String>,
    /// Largest shard, bytes.
    pub max_shard_size: u64,
    /// Make every substitution an error.
    pub strict: bool,
    /// Let NaN and infinities pass (they are counted and reported all the same).
    pub allow_nonfinite: bool,
    /// Accept an input that is quantized already, and start from its dequantized values.
    pub dequantize: bool,
    /// `fp8` or `int8`: the output holds scales for keys and values that engines cache in 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
    /// The calibration set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Other schemes or zeros for some tensors; the first that matches counts, of zeros the first that sets any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Schemes are chosen linear by linear, so that this is not exceeded and least is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// The stages in order: those that change shapes, rewritings and one pruning, then one quantization, then compensation. None: rounding to nearest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Cuts that make the model smaller before the stages, in order. Stages that change shapes are turned into these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub surgery: Vec<Surgery>,
}

/// Another scheme, or other zeros, for tensors whose names match.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// A glob over tensor names.
    #[serde(rename = "match")]
    pub pattern: String,
    /// A preset's name, or `dense`; empty for the recipe's scheme.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// Zeros per weight in the place of the pruning stage's; 0 leaves a tensor alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// The pattern of these zeros: `unstructured`, or N:M.
    #[serde(rename = "pattern", skip_serializing_if = "Option::is_none")]
    pub zeros: Option<Pattern>,
    /// Columns per scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Without zero points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
}

/// The limit of the output's size: `bpw` or `size`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Bits per weight of what is quantized, scales included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpw: Option<f64>,
    /// Bytes of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Presets to choose from, the smallest first; none: those of the recipe's kind of scheme that suffice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemes: Vec<String>,
}

/// The method of a recipe without a stage that quantizes.
pub const DEFAULT_METHOD: &str = "rtn";

/// The scheme of an override that leaves tensors dense.
pub const DENSE: &str = "dense";

/// One step of a recipe: a method, and those of its parameters that are not left at their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// A name from METHODS.
    pub method: String,
    /// Under the names of the method's paper.
    #[serde(flatten)]
    pub parameters: Table,
}

impl Stage {
    /// A method with its default parameters; its name may be in either case.
    pub fn new(method: impl Into<String>) -> Stage {
        let method = method.into().to_ascii_lowercase().replace('_', "-");
        Stage { method, parameters: Table::new() }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            scheme: None,
            group_size: None,
            symmetric: None,
            format: None,
            dtype: None,
            include: Vec::new(),
            exclude: Vec::new(),
            max_shard_size: 5_000_000_000,
            strict: false,
            allow_nonfinite: false,
            dequantize: false,
            kv_cache: None,
            calibration: None,
            overrides: Vec::new(),
            budget: None,
            stages: Vec::new(),
            surgery: Vec::new(),
        }
    }
}

impl Recipe {
    /// Parses TOML; unknown keys are errors that name the known ones. `origin` is where the text comes from, for errors.
    pub fn from_toml(origin: &str, text: &str) -> Result<Recipe> {
        toml::from_str(text).map_err(|e| refused(&format!("{origin}: {}", e.to_string().trim()), &e))
    }

    /// Parses the keys of a table. `origin` is where they come from, for errors.
    pub(crate) fn from_table(origin: &str, table: Table) -> Result<Recipe> {
        table.try_into().map_err(|e: toml::de::Error| refused(&format!("{origin}: {}", e.message()), &e))
    }

    /// The recipe as TOML, keys in the order of the struct.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a struct of strings, numbers and lists is always valid TOML")
    }

    /// The names of the formats that are asked for.
    fn formats(&self) -> Vec<&str> {
        self.format.iter().flat_map(|names| names.split(',')).map(str::trim).collect()
    }

    /// Returns true if it calibrates on text; else it may start from statistics.
    pub fn has_text(&self) -> bool {
        self.calibration.as_ref().is_some_and(|calibration| calibration.statistics.is_empty())
    }

    /// Refuses a format that is named twice.
    pub fn refuse_repeated(&self) -> Result<()> {
        let names = self.formats();
        match names
            .iter()
            .enumerate()
            .find(|(index, name)| names[..*index].iter().any(|other| same(other, name)))
        {
            Some((_, name)) => Err(Error::usage(format!("format {name} is named twice"), "name each once")),
            None => Ok(()),
        }
    }

    /// One recipe per format, where several are asked for: `compressed-tensors,gptq,gguf`. Where GGUF is one of several
    /// and has no block type for the scheme, it gets the one of as many bits, and no stages, whose codes it could not hold:
    /// it comes behind those that the stages make.
    pub fn per_format(&self) -> PerFormat<Recipe> {
        let formats = self.formats();
        if formats.len() < 2 {
            return PerFormat::alone(self.clone());
        }
        let mut recipes: Vec<Recipe> = formats.into_iter().map(|format| self.for_format(format)).collect();
        recipes.sort_by_key(|recipe| recipe.stages.is_empty());
        PerFormat { primary: recipes.remove(0), companions: recipes }
    }

    fn for_format(&self, format: &str) -> Recipe {
        let recipe = Recipe { format: Some(format.to_owned()), ..self.clone() };
        let scheme =
            || adjust(find_preset(self.scheme.as_deref()?).ok()?, self.group_size, self.symmetric).ok();
        match scheme().map(|scheme| (scheme.number, integers::holding(&scheme))) {
            Some((Number::Int { bits }, None)) if same(format, "gguf") => Recipe {
                scheme: Some(blocks_of(bits).to_owned()),
                group_size: None,
                symmetric: None,
                overrides: self.overrides.iter().filter_map(Override::as_blocks).collect(),
                stages: Vec::new(),
                ..recipe
            },
            _ => recipe,
        }
    }

    /// The names of the methods, in order: `rotate, gptq`.
    pub fn method_names(&self) -> String {
        let cuts = self.surgery.iter().map(|cut| cut.method.as_str()).filter(|name| !name.is_empty());
        let mut names: Vec<&str> =
            cuts.chain(self.stages.iter().map(|stage| stage.method.as_str())).collect();
        names.dedup();
        if names.is_empty() { DEFAULT_METHOD.into() } else { names.join(", ") }
    }
}

/// The error for keys that no recipe has, or that have wrong values.
fn refused(what: &str, error: &toml::de::Error) -> Error {
    let hint = nearest_key(error.message());
    Error::usage(what, hint.unwrap_or_else(|| "recipes/README.md has every key".to_owned()))
}

impl Override {
    /// With the block type of as many bits in the place of integers, and without zeros, which need a stage; `None` for one that
    /// sets zeros only.
    fn as_blocks(&self) -> Option<Override> {
        let own = Override { sparsity: None, zeros: None, ..self.clone() };
        match find_preset(&self.scheme).map(|preset| preset.scheme.number) {
            Ok(Number::Int { bits }) => Some(Override {
                scheme: blocks_of(bits).to_owned(),
                group_size: None,
                symmetric: None,
                ..own
            }),
            _ if own.scheme.is_empty() && own != *self => None,
            _ => Some(own),
        }
    }
}

/// The preset of GGUF's block type of about as many bits.
pub(crate) fn blocks_of(bits: u8) -> &'static str {
    match bits {
        2 => "q2_k",
        3 => "q3_k",
        4 => "q4_k",
        5 => "q5_k",
        6 => "q6_k",
        _ => "q8_0",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trip() {
        let recipe = Recipe {
            scheme: Some("w4a16".into()),
            group_size: Some(64),
            stages: vec![Stage::new("mse")],
            ..Recipe::default()
        };
        assert_eq!(Recipe::from_toml("", &recipe.to_toml()).unwrap(), recipe);
        assert_eq!(Recipe::from_toml("", "").unwrap(), Recipe::default());
    }

    #[test]
    fn gguf_among_several_formats_rounds_by_itself_behind_the_others() {
        let other = |pattern: &str, scheme: &str| Override {
            pattern: pattern.into(),
            scheme: scheme.into(),
            ..Override::default()
        };
        let recipe = Recipe {
            scheme: Some("w4a16".into()),
            format: Some("gguf, gptq".into()),
            overrides: vec![other("*.down_proj*", DENSE), other("*.v_proj*", "w8a16")],
            stages: vec![Stage::new("gptq")],
            ..Recipe::default()
        };
        let PerFormat { primary: first, companions } = recipe.per_format();
        let [second] = companions.try_into().unwrap();
        assert_eq!(first, Recipe { format: Some("gptq".into()), ..recipe.clone() });
        let overrides = vec![recipe.overrides[0].clone(), other("*.v_proj*", "q8_0")];
        let scheme = Some("q4_k".into());
        let blocks = Recipe { scheme, overrides, stages: vec![], format: Some("gguf".into()), ..recipe };
        assert_eq!(second, blocks);
    }
}
