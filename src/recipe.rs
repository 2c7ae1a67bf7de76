//! `Recipe`: what the user asks for, parsed without effects. Command-line flags and TOML give the same struct; the text
//! travels in the output's metadata, so that `verify` can do the same work again.

mod shipped;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::calib::Calibration;
use crate::error::{Error, Result};
use crate::export::{FORMATS, Format};
use crate::method::{Def, Effect, METHODS, Method, Scope, nearest_key, unknown_key};
use crate::numerics::ggml::integers;
use crate::numerics::presets::{self, Activations, PRESETS, Preset};
use crate::numerics::{Fp8, Granularity, Number, Scheme};
use crate::tensor::DType;

pub use shipped::{CALIBRATED_4_BITS, SHIPPED};

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
    /// What it is calibrated on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Other schemes for some tensors; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// What is done to the weights, in order: rewritings, then one quantization. None: rounding to nearest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// Another scheme for tensors whose names match.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// A glob over tensor names.
    #[serde(rename = "match")]
    pub pattern: String,
    /// A preset's name, or `dense`.
    pub scheme: String,
    /// Columns per scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Without zero points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
}

/// What an override leaves tensors as they are with.
const DENSE: &str = "dense";

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
            calibration: None,
            overrides: Vec::new(),
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
    /// How rows are quantized that no block has, and that the method has no statistics for: the method itself where it
    /// takes rows one by one.
    pub rowwise: Arc<dyn Method>,
    /// Where it goes.
    pub format: &'static dyn Format,
    /// Type of what is not quantized.
    pub dtype: Option<DType>,
    /// The schemes of [`Recipe::overrides`], in order; `None` for dense.
    pub overrides: Vec<Option<Scheme>>,
}

impl Recipe {
    /// Parses TOML; unknown keys are errors that name the known ones.
    pub fn from_toml(text: &str) -> Result<Recipe> {
        toml::from_str(text).map_err(|e| {
            let hint = nearest_key(e.message());
            let hint = hint.unwrap_or_else(|| "recipes/ holds examples of every key".to_owned());
            Error::usage(format!("recipe: {}", e.to_string().trim()), hint)
        })
    }

    /// Sets a key by its path: `group_size=64`, `calibration.samples=256`, or a parameter of a stage by the name of its
    /// method, `gptq.damping=0.05`. What is no TOML value is taken as text.
    ///
    /// # Errors
    /// What is not `key=value`; unknown keys, naming the nearest known one.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, text) = assignment.split_once('=').ok_or_else(|| {
            Error::usage(format!("--set {assignment}: not key=value"), "for example --set gptq.damping=0.05")
        })?;
        let value =
            format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
        let (first, rest) = key.split_once('.').unwrap_or(("", key));
        if let Some(stage) = self.stages.iter_mut().find(|stage| stage.method == first) {
            stage.parameters.insert(rest.to_owned(), value);
            return self.build_stages(&[]).map(drop);
        }
        if METHODS.iter().any(|def| def.name == first) {
            let what = format!("--set {key}: the recipe has no stage {first}");
            return Err(Error::usage(what, format!("its stages: {}", self.method_names())));
        }
        let mut table = Table::try_from(&*self).expect("a recipe is plain values");
        let mut inner = &mut table;
        if !first.is_empty() {
            let entry = inner.entry(first).or_insert_with(|| Table::new().into());
            inner = entry.as_table_mut().ok_or_else(|| {
                Error::usage(
                    format!("--set {key}: {first} has no keys in it"),
                    "use method.parameter for stages",
                )
            })?;
        }
        inner.insert(rest.to_owned(), value);
        *self = Recipe::from_toml(&table.to_string())?;
        Ok(())
    }

    /// The recipe as TOML, keys in the order of the struct.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a struct of strings, numbers and lists is always valid TOML")
    }

    /// Looks the names up and checks that they go together.
    pub fn resolve(&self) -> Result<Request> {
        let preset = self.scheme.as_deref().map(find_preset).transpose()?;
        let scheme = preset.map(|preset| adjust(preset, self.group_size, self.symmetric)).transpose()?;
        let overrides = self.overrides.iter().map(Override::resolve).collect::<Result<Vec<_>>>()?;
        let schemes: Vec<Scheme> = scheme.into_iter().chain(overrides.iter().copied().flatten()).collect();
        let (rewriting, method) = self.build_stages(&schemes)?;
        self.refuse_uncalibrated(&rewriting, &method)?;
        let rowwise = match method.scope() {
            Scope::Rows => Arc::clone(&method),
            Scope::Input | Scope::Block => default_method()?.1,
        };
        if method.reorders_groups() && self.format_name(scheme.as_ref()) != "dense" {
            let what = "act_order = dynamic: no format here stores columns that are grouped out of order";
            return Err(Error::usage(what, "act_order = static loses no more; or write --format dense"));
        }
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
            rowwise,
            method,
            format,
            dtype: self.dtype.as_deref().map(parse_dtype).transpose()?,
            overrides,
        })
    }

    /// Methods that look at what flows through the model need text to run it on.
    fn refuse_uncalibrated(&self, rewriting: &[Arc<dyn Method>], method: &Arc<dyn Method>) -> Result<()> {
        let mut methods = rewriting.iter().chain([method]);
        if self.calibration.is_some() || !methods.any(|method| method.needs().any() || method.trains()) {
            return Ok(());
        }
        let what = format!("{}: needs text to calibrate on", self.method_names());
        Err(Error::usage(what, "name some with --data FILE; --data self lets the model write it"))
    }

    /// One recipe per format, where several are asked for: `compressed-tensors,gptq,gguf`. Where GGUF is one of several
    /// and has no block type for the scheme, it gets the one of as many bits.
    pub fn per_format(&self) -> Vec<Recipe> {
        let formats: Vec<&str> =
            self.format.iter().flat_map(|names| names.split(',')).map(str::trim).collect();
        if formats.len() < 2 {
            return vec![self.clone()];
        }
        formats.into_iter().map(|format| self.for_format(format)).collect()
    }

    fn for_format(&self, format: &str) -> Recipe {
        let recipe = Recipe { format: Some(format.to_owned()), ..self.clone() };
        let scheme =
            || adjust(find_preset(self.scheme.as_deref()?).ok()?, self.group_size, self.symmetric).ok();
        match scheme().map(|scheme| (scheme.number, integers::holding(&scheme))) {
            Some((Number::Int { bits }, None)) if format == "gguf" => Recipe {
                scheme: Some(blocks_of(bits).to_owned()),
                group_size: None,
                symmetric: None,
                overrides: Vec::new(),
                stages: Vec::new(),
                ..recipe
            },
            _ => recipe,
        }
    }

    /// The names of the methods, in order: `rotate, gptq`.
    pub fn method_names(&self) -> String {
        let names: Vec<&str> = self.stages.iter().map(|stage| stage.method.as_str()).collect();
        if names.is_empty() { DEFAULT_METHOD.into() } else { names.join(", ") }
    }

    /// The methods of the stages: those that rewrite, and the one that quantizes.
    fn build_stages(&self, schemes: &[Scheme]) -> Result<Stages> {
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
            None => default_method()?,
        };
        let refused = |scheme| match (def.supports)(scheme) {
            Ok(()) => Ok(()),
            Err(why) => Err(Error::usage(format!("method {} cannot work with {scheme}", def.name), why)),
        };
        schemes.iter().try_for_each(refused)?;
        Ok((rewriting, method))
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

/// The preset of GGUF's block type of about as many bits.
fn blocks_of(bits: u8) -> &'static str {
    match bits {
        2 => "q2_k",
        3 => "q3_k",
        4 => "q4_k",
        5 => "q5_k",
        6 => "q6_k",
        _ => "q8_0",
    }
}

/// Methods that rewrite, in order, and the one that quantizes.
type Stages = (Vec<Arc<dyn Method>>, Arc<dyn Method>);

/// What quantizes where no stage does.
const DEFAULT_METHOD: &str = "rtn";

fn default_method() -> Result<(&'static Def, Arc<dyn Method>)> {
    let def = find_method(DEFAULT_METHOD)?;
    Ok((def, (def.build)(&Table::new())?.into()))
}

fn find_method(name: &str) -> Result<&'static Def> {
    let names: Vec<&str> = METHODS.iter().map(|def| def.name).collect();
    METHODS.iter().find(|def| def.name == name).ok_or_else(|| unknown_key("method", name, &names))
}

fn after_quantizing((first, _): &(&Def, Arc<dyn Method>), second: &Def) -> Error {
    let what = format!("stage {} comes after {}, which quantizes", second.name, first.name);
    Error::usage(what, "a recipe's stages rewrite weights first, and quantize them once, last")
}

impl Override {
    fn resolve(&self) -> Result<Option<Scheme>> {
        if self.scheme == DENSE {
            return Ok(None);
        }
        adjust(find_preset(&self.scheme)?, self.group_size, self.symmetric).map(Some)
    }
}

fn find_preset(name: &str) -> Result<&'static Preset> {
    presets::find(name).ok_or_else(|| unknown("scheme", name, PRESETS.iter().map(|preset| preset.name)))
}

/// The preset's scheme with another group size and symmetry.
fn adjust(preset: &Preset, group_size: Option<usize>, symmetric: Option<bool>) -> Result<Scheme> {
    let mut scheme = preset.scheme;
    if preset.activations.is_some() && (group_size.is_some() || symmetric == Some(false)) {
        return Err(Error::usage(
            format!(
                "{} quantizes inputs too: its scales are fixed ({scheme}), without zero points",
                preset.name
            ),
            "leave --group-size and --asymmetric out, or choose a scheme for weights alone such as w8a16",
        ));
    }
    let grouped = matches!(scheme.number, Number::Int { .. } | Number::Nf4);
    match group_size {
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
    match symmetric {
        Some(false) if !matches!(scheme.number, Number::Int { .. }) => Err(Error::usage(
            format!("{scheme} has no zero points"),
            "--asymmetric goes with integer schemes such as w4a16",
        )),
        symmetric => Ok(Scheme { symmetric: symmetric.unwrap_or(scheme.symmetric), ..scheme }),
    }
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
        check("sheme = 'w4a16'", "did you mean scheme?");
        check("[[overrides]]\nmatsh = 'x'", "did you mean match?");
        check("[[stages]]\nmethod = 'hqq'\nkapa = 1", "did you mean kappa?");
        check("[[overrides]]\nmatch = 'x'\nscheme = 'w4a17'", "known: ");
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
    fn keys_are_set_by_their_path() {
        let mut recipe = Recipe { stages: vec![Stage::new("hqq")], ..Recipe::default() };
        for assignment in ["scheme=w4a16-asym", "group_size=64", "hqq.iters=7", "exclude=['*.v_proj*']"] {
            recipe.set(assignment).unwrap();
        }
        assert_eq!(recipe.group_size, Some(64));
        assert_eq!(recipe.scheme.as_deref(), Some("w4a16-asym"));
        assert_eq!(recipe.exclude, ["*.v_proj*"]);
        assert_eq!(recipe.stages[0].parameters["iters"].as_integer(), Some(7));
        for (wrong, hint) in [("hqq.itres=7", "iters"), ("group_siz=64", "group_size"), ("hqq", "damping")] {
            let error = recipe.set(wrong).unwrap_err();
            assert!(error.hint().unwrap().contains(hint), "{wrong}: {error}");
        }
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
