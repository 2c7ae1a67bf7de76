//! `Recipe`: what the user asks for, parsed without effects. Command-line flags and TOML give the same struct; the text
//! travels in the output's metadata, so that `verify` can do the same work again.

mod request;
mod shipped;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::calib::Calibration;
use crate::error::{Error, Result};
use crate::method::{METHODS, nearest_key};
use crate::numerics::Number;
use crate::numerics::ggml::integers;
use request::{DEFAULT_METHOD, adjust, find_preset};

pub use request::Request;
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
    /// `fp8` or `int8`: the output holds scales for keys and values that engines cache in 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
    /// What it is calibrated on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Other schemes for some tensors; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Schemes are chosen linear by linear, so that this is not exceeded and least is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
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

/// How large the output may become: `bpw` or `size`.
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
            kv_cache: None,
            calibration: None,
            overrides: Vec::new(),
            budget: None,
            stages: Vec::new(),
        }
    }
}

impl Recipe {
    /// Parses TOML; unknown keys are errors that name the known ones. `origin` is where the text comes from, for errors.
    pub fn from_toml(origin: &str, text: &str) -> Result<Recipe> {
        toml::from_str(text).map_err(|e| {
            let hint = nearest_key(e.message());
            let hint = hint.unwrap_or_else(|| "recipes/README.md has every key".to_owned());
            Error::usage(format!("{origin}: {}", e.to_string().trim()), hint)
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
        *self = Recipe::from_toml(&format!("--set {assignment}"), &table.to_string())?;
        Ok(())
    }

    /// The recipe as TOML, keys in the order of the struct.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a struct of strings, numbers and lists is always valid TOML")
    }

    /// The names of the formats that are asked for.
    fn formats(&self) -> Vec<&str> {
        self.format.iter().flat_map(|names| names.split(',')).map(str::trim).collect()
    }

    /// Whether it calibrates on text; else it may start from statistics.
    pub fn has_text(&self) -> bool {
        self.calibration.as_ref().is_some_and(|calibration| calibration.statistics.is_empty())
    }

    /// Refuses a format that is named twice.
    pub fn refuse_repeated(&self) -> Result<()> {
        let names = self.formats();
        match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            Some((_, name)) => Err(Error::usage(format!("format {name} is named twice"), "name each once")),
            None => Ok(()),
        }
    }

    /// One recipe per format, where several are asked for: `compressed-tensors,gptq,gguf`. Where GGUF is one of several
    /// and has no block type for the scheme, it gets the one of as many bits, and no stages, whose codes it could not hold:
    /// it comes behind those that the stages make.
    pub fn per_format(&self) -> Vec<Recipe> {
        let formats = self.formats();
        if formats.len() < 2 {
            return vec![self.clone()];
        }
        let mut recipes: Vec<Recipe> = formats.into_iter().map(|format| self.for_format(format)).collect();
        recipes.sort_by_key(|recipe| recipe.stages.is_empty());
        recipes
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
                overrides: self.overrides.iter().map(Override::as_blocks).collect(),
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
}

impl Override {
    /// With the block type of as many bits in the place of integers.
    fn as_blocks(&self) -> Override {
        match find_preset(&self.scheme).map(|preset| preset.scheme.number) {
            Ok(Number::Int { bits }) => Override {
                pattern: self.pattern.clone(),
                scheme: blocks_of(bits).to_owned(),
                ..Override::default()
            },
            _ => self.clone(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(toml: &str, expected: &str) {
        let found = Recipe::from_toml("test.toml", toml).and_then(|recipe| recipe.resolve().map(|_| ()));
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
        assert_eq!(Recipe::from_toml("", &recipe.to_toml()).unwrap(), recipe);
        assert_eq!(Recipe::from_toml("", "").unwrap(), Recipe::default());
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
        check("[[stages]]\nmethod = 'lorc'\n[[stages]]\nmethod = 'mse'", "makes up for quantization");
        check("[[stages]]\nmethod = 'lorc'\n[[stages]]\nmethod = 'eora'", "makes up for quantization");
        check("[[stages]]\nmethod = 'mse'\n[[stages]]\nmethod = 'rotate'\n", "quantizes");
        check("[[stages]]\nmethod = 'eora'", "--data");
        check("[[stages]]\nmethod = 'lorc'\nrank = 0", "32");
        check("scheme = 'q4_k'\n[[stages]]\nmethod = 'lorc'", "choose a format that writes a folder");
        let scaled = "[calibration]\n[[stages]]\nmethod = 'awq'\n[[stages]]\nmethod = 'eora'";
        check(scaled, "awq-scale,mse,eora");
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
    fn no_method_takes_a_key_that_it_does_not_know() {
        let nonsense = Table::from_iter([("nonsense".to_owned(), toml::Value::from(1))]);
        for def in METHODS {
            let error = (def.build)(&nonsense).err().unwrap().to_string();
            assert!(error.contains("nonsense"), "{}: {error}", def.name);
        }
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
        let [first, second] = recipe.per_format().try_into().unwrap();
        assert_eq!(first, Recipe { format: Some("gptq".into()), ..recipe.clone() });
        let overrides = vec![recipe.overrides[0].clone(), other("*.v_proj*", "q8_0")];
        let scheme = Some("q4_k".into());
        let blocks = Recipe { scheme, overrides, stages: vec![], format: Some("gguf".into()), ..recipe };
        assert_eq!(second, blocks);
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
