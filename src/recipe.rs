//! `Recipe`: what the user asks for, parsed without effects. Command-line flags and TOML give the same struct; the text
//! travels in the output's metadata, so that `verify` can do the same work again.

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::error::{Error, Result};
use crate::export::{FORMATS, Format};
use std::sync::Arc;

use crate::method::{Def, Effect, METHODS, Method, unknown_key};
use crate::numerics::presets::{self, Activations, PRESETS, Preset};
use crate::numerics::{Fp8, Granularity, Number, Scheme};
use crate::tensor::DType;

/// What to do to a checkpoint.
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
    /// What is done to the weights, in order: rewritings, then one quantization. None: rounding to nearest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

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
    /// A method with its default parameters.
    pub fn new(method: impl Into<String>) -> Stage {
        Stage { method: method.into(), parameters: Table::new() }
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
            stages: Vec::new(),
        }
    }
}

/// A recipe whose names have been looked up and found to go together.
#[derive(Clone)]
pub struct Request {
    /// What linears become; `None` to convert only.
    pub scheme: Option<Scheme>,
    /// What the engine is to do to activations.
    pub activations: Option<Activations>,
    /// What is done to weights before they are quantized, in order.
    pub rewriting: Vec<Arc<dyn Method>>,
    /// How they are quantized.
    pub method: Arc<dyn Method>,
    /// Where it goes.
    pub format: &'static dyn Format,
    /// Type of what is not quantized.
    pub dtype: Option<DType>,
}

impl Recipe {
    /// Parses TOML; unknown keys are errors that name the known ones.
    pub fn from_toml(text: &str) -> Result<Recipe> {
        toml::from_str(text).map_err(|e| {
            Error::usage(
                format!("recipe: {}", e.to_string().trim()),
                "the keys of a recipe are the long flags of `llmc quantize`",
            )
        })
    }

    /// The recipe as TOML, keys in the order of the struct.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a struct of strings, numbers and lists is always valid TOML")
    }

    /// Looks the names up and checks that they go together.
    pub fn resolve(&self) -> Result<Request> {
        let preset = match &self.scheme {
            None => None,
            Some(name) => Some(
                presets::find(name)
                    .ok_or_else(|| unknown("scheme", name, PRESETS.iter().map(|preset| preset.name)))?,
            ),
        };
        let scheme = preset.map(|preset| self.adjust(preset)).transpose()?;
        let (rewriting, method) = self.build_stages(scheme.as_ref())?;
        let activations = preset.and_then(|preset| preset.activations);
        let format = find_format(self.format_name(scheme.as_ref()))?;
        if activations.is_some() && !matches!(format.name(), "compressed-tensors" | "dense") {
            return Err(Error::usage(
                format!("format {} says nothing of how inputs are quantized", format.name()),
                "compressed-tensors does; w8a16 is w8a8 with the inputs left alone",
            ));
        }
        Ok(Request {
            scheme,
            activations,
            rewriting,
            method,
            format,
            dtype: self.dtype.as_deref().map(parse_dtype).transpose()?,
        })
    }

    /// The names of the methods, in order: `rotate, gptq`.
    pub fn method_names(&self) -> String {
        let names: Vec<&str> = self.stages.iter().map(|stage| stage.method.as_str()).collect();
        if names.is_empty() { DEFAULT_METHOD.into() } else { names.join(", ") }
    }

    /// The methods of the stages: those that rewrite, and the one that quantizes.
    fn build_stages(&self, scheme: Option<&Scheme>) -> Result<(Vec<Arc<dyn Method>>, Arc<dyn Method>)> {
        let mut rewriting = Vec::new();
        let mut quantizing = None;
        for stage in &self.stages {
            let def = find_method(&stage.method)?;
            let method: Arc<dyn Method> = (def.build)(&stage.parameters)?.into();
            match (def.effect, &quantizing) {
                (_, Some(first)) => return Err(after_quantizing(first, def)),
                (Effect::Rewrites, None) => rewriting.push(method),
                (Effect::Quantizes, None) => quantizing = Some((def, method)),
            }
        }
        let (def, method) = match quantizing {
            Some(found) => found,
            None => {
                let def = find_method(DEFAULT_METHOD)?;
                (def, (def.build)(&Table::new())?.into())
            }
        };
        if let Some(Err(why)) = scheme.map(def.supports) {
            let what = format!(
                "method {} cannot work with {}",
                def.name,
                scheme.map(ToString::to_string).unwrap_or_default()
            );
            return Err(Error::usage(what, why));
        }
        Ok((rewriting, method))
    }

    /// The preset's scheme with the recipe's group size and symmetry.
    fn adjust(&self, preset: &Preset) -> Result<Scheme> {
        let mut scheme = preset.scheme;
        if preset.activations.is_some() && (self.group_size.is_some() || self.symmetric == Some(false)) {
            return Err(Error::usage(
                format!(
                    "{} quantizes inputs too: its scales are fixed ({scheme}), without zero points",
                    preset.name
                ),
                "leave --group-size and --asymmetric out, or choose a scheme for weights alone such as w8a16",
            ));
        }
        let grouped = matches!(scheme.number, Number::Int { .. } | Number::Nf4);
        match self.group_size {
            Some(_) if !grouped => {
                return Err(Error::usage(
                    format!("--group-size has no meaning for {scheme}, whose format fixes its groups"),
                    "leave it out, or choose an integer scheme such as w4a16",
                ));
            }
            Some(0) => scheme.granularity = Granularity::Channel,
            Some(size) => scheme.granularity = Granularity::Group(size),
            None => {}
        }
        match self.symmetric {
            Some(false) if !matches!(scheme.number, Number::Int { .. }) => Err(Error::usage(
                format!("{scheme} has no zero points"),
                "--asymmetric goes with integer schemes such as w4a16",
            )),
            symmetric => Ok(Scheme { symmetric: symmetric.unwrap_or(scheme.symmetric), ..scheme }),
        }
    }

    fn format_name(&self, scheme: Option<&Scheme>) -> &str {
        match (&self.format, scheme.map(|scheme| scheme.number)) {
            (Some(name), _) => name,
            (None, Some(Number::Ggml(_))) => "gguf",
            (None, Some(Number::Nf4 | Number::Fp8(Fp8::E5M2)) | None) => "dense",
            (None, Some(_)) => "compressed-tensors",
        }
    }
}

/// What quantizes where no stage does.
const DEFAULT_METHOD: &str = "rtn";

fn find_method(name: &str) -> Result<&'static Def> {
    let names: Vec<&str> = METHODS.iter().map(|def| def.name).collect();
    METHODS.iter().find(|def| def.name == name).ok_or_else(|| unknown_key("method", name, &names))
}

fn after_quantizing((first, _): &(&Def, Arc<dyn Method>), second: &Def) -> Error {
    let what = format!("stage {} comes after {}, which quantizes", second.name, first.name);
    Error::usage(what, "a recipe's stages rewrite weights first, and quantize them once, last")
}

fn find_format(name: &str) -> Result<&'static dyn Format> {
    FORMATS
        .iter()
        .copied()
        .find(|format| format.name() == name)
        .ok_or_else(|| unknown("format", name, FORMATS.iter().map(|format| format.name())))
}

fn parse_dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(unknown("dtype", name, ["f32", "f16", "bf16"].into_iter())),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.collect();
    Error::usage(format!("unknown {what} {name:?}"), format!("known: {}", known.join(", ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(toml: &str, expected: &str) {
        let found = Recipe::from_toml(toml).and_then(|recipe| recipe.resolve().map(|_| ()));
        let error = found.expect_err("must be refused");
        let text = format!("{error} | {}", error.hint().unwrap_or_default());
        assert!(text.contains(expected), "{text:?} does not contain {expected:?}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn toml_round_trip() {
        let recipe = Recipe {
            scheme: Some("w4a16".into()),
            group_size: Some(64),
            stages: vec![Stage::new("mse")],
            ..Recipe::default()
        };
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
        assert_eq!(Recipe::from_toml("").unwrap(), Recipe::default());
    }

    #[test]
    fn mistakes_are_named() {
        check("sheme = 'w4a16'", "unknown field `sheme`");
        check("scheme = 'w4a17'", "known: ");
        check("scheme = 'q4_k'\ngroup_size = 64", "fixes its groups");
        check("scheme = 'fp8-e5m2'\nsymmetric = false", "no zero points");
        check("scheme = 'w8a8'\ngroup_size = 64", "fixed (int8 channel");
        check("scheme = 'fp8-block'\ngroup_size = 64", "fixed (fp8 128x128)");
        check("scheme = 'w8a8'\nformat = 'gptq'", "w8a16");
        check("[[stages]]\nmethod = 'magic'", "known: rtn, mse, hqq");
        check("[[stages]]\nmethod = 'rtm'", "did you mean rtn?");
        check("[[stages]]\nmethod = 'rtn'\n[[stages]]\nmethod = 'mse'", "quantizes");
        check("format = 'zip'", "compressed-tensors");
        check("dtype = 'f64'", "bf16");
    }

    #[test]
    fn the_format_follows_the_scheme() {
        let format = |scheme: &str| {
            let recipe = Recipe { scheme: Some(scheme.into()), ..Recipe::default() };
            recipe.resolve().unwrap().format.name()
        };
        assert_eq!(format("q4_k"), "gguf");
        assert_eq!(format("w4a16"), "compressed-tensors");
        assert_eq!(format("nf4"), "dense");
    }
}
