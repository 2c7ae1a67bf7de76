//! The flags that make a recipe, shared by `plan` and `quantize`.

use clap::Args;

use super::calibration_args::KnowledgeArguments;
use super::suggested;
use crate::error::{Error, Result};
use crate::export::FORMATS;
use crate::numerics::Number;
use crate::numerics::presets::{self, PRESETS};
use crate::recipe::{Budget, CALIBRATED_4_BITS, Calibration, Override, Recipe, Stage, blocks_of};
use crate::registry::METHODS;
use crate::similar;

/// The end of `--help`: every scheme, method and format with what it costs, then the examples.
pub(crate) fn catalogue(examples: &str) -> String {
    let list = |title: &str, entries: Vec<(&str, &str)>| {
        let lines: String =
            entries.iter().map(|(name, summary)| format!("  {name}\n      {summary}\n")).collect();
        format!("{title}:\n{lines}\n")
    };
    list("Schemes", PRESETS.iter().map(|preset| (preset.name, preset.summary)).collect())
        + &list("Methods", METHODS.iter().map(|def| (def.name, def.summary)).collect())
        + &list(
            "Formats",
            FORMATS.iter().map(|format| (format.name(), format.capabilities().summary)).collect(),
        )
        + examples
}

/// The flags of a recipe.
#[derive(Debug, Args)]
pub(crate) struct RecipeArguments {
    /// Bits per weight: 4 is --scheme w4a16 --group-size 64, 8 is --scheme w8a16, and so on; by --method gptq with --data (for 4
    /// bits the shipped recipe w4a16-gptq), without by --method mse (clip search); in a GGUF q4_k, q8_0 and so on
    #[arg(long, value_name = "N", conflicts_with = "scheme", value_parser = ["2", "3", "4", "5", "6", "8"])]
    bits: Option<String>,
    /// A preset: w4a16, w4a16-asym, w8a16, w8a8, fp8, fp8-block, nvfp4, mxfp4, nf4, q4_0, q8_0, q4_k, q6_k, …
    #[arg(long, value_name = "NAME", value_parser = suggested::schemes(), hide_possible_values = true)]
    scheme: Option<String>,
    /// Columns per scale, 0 for one per row [default: the scheme's]
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,
    /// Without zero points
    #[arg(long, conflicts_with = "asymmetric")]
    symmetric: bool,
    /// With zero points
    #[arg(long)]
    asymmetric: bool,
    /// One method, or several in order (rotate,gptq,eora): see --help [default: rtn; with --bits mse, or gptq where there is --data]
    #[arg(long, value_name = "NAME", value_parser = suggested::methods(), hide_possible_values = true)]
    method: Option<String>,
    /// compressed-tensors, gptq, gptq-v2, awq, gguf, dense; several: a,b [default: what the scheme usually goes into]
    #[arg(long, value_name = "NAME", value_parser = suggested::formats(), hide_possible_values = true)]
    format: Option<String>,
    /// Type of what is not quantized: f32, f16, bf16 [default: as it is]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Quantize tensors matching this glob even where a rule leaves them alone (repeatable)
    #[arg(long, hide_short_help = true, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave tensors matching this glob alone (repeatable)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Another scheme for tensors matching a glob, or dense (repeatable)
    #[arg(long = "override", value_name = "GLOB=SCHEME", value_parser = parse_override)]
    overrides: Vec<Override>,
    /// Scales for keys and values that engines cache in 8 bits, measured on --data: fp8 (vLLM, SGLang, transformers), int8
    /// (transformers; vLLM has no kernel for it)
    #[arg(long, value_name = "TYPE", hide_short_help = true, value_parser = ["fp8", "int8"])]
    kv_cache: Option<String>,
    /// Mixed precision: the schemes that lose least within so many bits per weight, measured on --data
    #[arg(long, value_name = "BITS", conflicts_with = "target_size")]
    target_bpw: Option<f64>,
    /// The same with the size of all weights: 80MB, 4GB
    #[arg(long, value_name = "SIZE", hide_short_help = true, value_parser = parse_size)]
    target_size: Option<u64>,
    /// Schemes that --target-bpw and --target-size choose from, the smallest first: w3a16,w4a16,w8a16 [default: the fewest that suffice]
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        hide_short_help = true,
        value_parser = suggested::schemes(),
        hide_possible_values = true
    )]
    choices: Vec<String>,
    /// Any key of a recipe: group_size=64, gptq.damping=0.05 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Make every substitution an error
    #[arg(long, hide_short_help = true)]
    strict: bool,
    /// Start from an input that is quantized already
    #[arg(long, hide_short_help = true)]
    dequantize: bool,
    #[command(flatten)]
    pub knowledge: KnowledgeArguments,
    #[command(flatten)]
    storage: StorageArguments,
}

/// The flags that `convert` has, too.
#[derive(Debug, Args)]
pub(crate) struct StorageArguments {
    /// Largest shard: 5GB, 500MB, …
    #[arg(long, value_name = "SIZE", hide_short_help = true, default_value = "5GB", value_parser = parse_size)]
    pub max_shard_size: u64,
    /// Let NaN and infinite weights pass (as 0 where they are quantized) instead of failing
    #[arg(long, hide_short_help = true)]
    pub allow_nonfinite: bool,
}

impl RecipeArguments {
    /// The recipe these flags ask for. `gguf` says that the output is named like a GGUF.
    pub(crate) fn recipe(&self, gguf: bool) -> Result<Recipe> {
        self.knowledge.refuse_idle()?;
        let gguf = self.format.as_deref().map_or(gguf, |format| similar::same(format, "gguf"));
        let base = self.base(gguf)?;
        let symmetric = match (self.symmetric, self.asymmetric) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => base.symmetric,
        };
        let calibration = self.knowledge.any();
        let stages =
            self.method.as_ref().map(|names| names.split(',').map(|name| Stage::new(name.trim())).collect());
        let mut recipe = Recipe {
            group_size: self.group_size.or(base.group_size),
            symmetric,
            format: self.format.clone(),
            dtype: self.dtype.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            max_shard_size: self.storage.max_shard_size,
            strict: self.strict,
            allow_nonfinite: self.storage.allow_nonfinite,
            dequantize: self.dequantize,
            kv_cache: self.kv_cache.clone(),
            calibration: calibration.then(|| self.knowledge.over(Calibration::default())),
            overrides: self.overrides.clone(),
            budget: self.budget()?,
            stages: stages.unwrap_or_else(|| base.stages.clone()),
            ..base
        };
        self.set.iter().try_for_each(|assignment| recipe.set(assignment))?;
        Ok(recipe)
    }

    fn budget(&self) -> Result<Option<Budget>> {
        let budget = Budget { bpw: self.target_bpw, size: self.target_size, schemes: self.choices.clone() };
        match (budget.bpw, budget.size, self.choices.is_empty()) {
            (None, None, true) => Ok(None),
            (None, None, false) => {
                Err(Error::usage("--choices without a budget", "say how much: --target-bpw 4.5"))
            }
            _ => Ok(Some(budget)),
        }
    }

    /// The recipe that the flags start from: `--bits` stands for a method too, for a better one with calibration text.
    fn base(&self, gguf: bool) -> Result<Recipe> {
        let of = |scheme: String, stages| Recipe { scheme: Some(scheme), stages, ..Recipe::default() };
        let budget = self.target_bpw.is_some() || self.target_size.is_some();
        let four = self.bits.as_deref().map_or(budget && self.scheme.is_none(), |bits| bits == "4");
        match (&self.bits, &self.scheme, self.knowledge.any()) {
            (Some(bits), _, _) if gguf => Ok(of(blocks_of(bits.parse().unwrap_or(8)).to_owned(), Vec::new())),
            (_, _, true) if four => Recipe::shipped(CALIBRATED_4_BITS),
            (Some(_), _, false) if four => {
                Ok(Recipe { stages: vec![Stage::new("mse")], ..Recipe::shipped(CALIBRATED_4_BITS)? })
            }
            (Some(bits), _, true) => Ok(of(format!("w{bits}a16"), vec![Stage::new("gptq")])),
            (Some(bits), _, false) => Ok(of(format!("w{bits}a16"), vec![Stage::new("mse")])),
            (None, Some(scheme), calibrated) => {
                Ok(of(scheme.to_lowercase(), default_stages(scheme, calibrated)))
            }
            (None, None, _) if self.kv_cache.is_some() => Ok(Recipe::default()),
            (None, None, _) if budget => Ok(of("w4a16".to_owned(), Vec::new())),
            (None, None, _) => Err(Error::usage("neither --bits nor --scheme", "--bits 4 is a good start")),
        }
    }
}

/// The stages of a scheme without `--method`: `gptq` for weight-only integers with calibration text.
pub(super) fn default_stages(scheme: &str, calibrated: bool) -> Vec<Stage> {
    let weights_alone = |preset: &&presets::Preset| {
        matches!(preset.scheme.number, Number::Int { .. }) && preset.activations.is_none()
    };
    match presets::find(scheme).filter(weights_alone) {
        Some(_) if calibrated => vec![Stage::new("gptq")],
        _ => Vec::new(),
    }
}

/// `*.down_proj*=w8a16`.
fn parse_override(text: &str) -> Result<Override, String> {
    let (pattern, scheme) = text.split_once('=').ok_or("expected GLOB=SCHEME")?;
    Ok(Override { pattern: pattern.into(), scheme: scheme.into(), ..Override::default() })
}

/// `5GB`, `500MB`, `64KB` (powers of ten), `1GiB` (of two), or bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim().to_uppercase();
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let factor = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => {
            return Err(
                "give a number of bytes, or one with KB, MB, GB, KiB, MiB or GiB behind it".to_owned()
            );
        }
    };
    let number: f64 = digits.trim().parse().map_err(|_| format!("{digits:?} is not a number"))?;
    let bytes = number * f64::from(factor);
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err("out of range".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("1.5mb"), Ok(1_500_000));
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("1.5 KiB"), Ok(1536));
        let refused = |wrong: &str, words: &str| {
            let error = parse_size(wrong).expect_err(wrong);
            assert!(error.contains(words), "{wrong}: {error}");
        };
        ["", "GB", "1TB!"].iter().for_each(|wrong| refused(wrong, "is not a number"));
        ["-1", "0", "1e30"].iter().for_each(|wrong| refused(wrong, "out of range"));
        ["nan", "5 XB"].iter().for_each(|wrong| refused(wrong, "give a number of bytes"));
    }
}
