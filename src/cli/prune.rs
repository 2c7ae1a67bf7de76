//! `llmc prune`.

use clap::Args;

use super::calibration_args::KnowledgeArguments;
use super::context::Context;
use super::convert::dense_format;
use super::output_args::OutputArguments;
use super::recipe_args::StorageArguments;
use super::{quantization, suggested};
use crate::error::{Error, Result};
use crate::names::unknown;
use crate::numerics::Pattern;
use crate::recipe::{Calibration, Override, Recipe, Stage};
use crate::registry::{METHODS, pruning, shaping};
use crate::similar::same;

const EXAMPLES: &str = "Examples:
  llmc prune models/qwen --method depth --layers 6 --data corpus.jsonl -o qwen-shallow
  llmc quantize models/qwen --bits 4 --method sparsegpt,gptq --data corpus.jsonl";

/// Take out what matters least, and correct the others: weights (set to zero), layers, heads, channels or experts
///
/// Zeros are stored as they are and run at the speed of other weights: no engine of today skips them. They make files that compress,
/// a start for training, and with --pattern 2:4 what the sparse kernels of GPUs take. Fewer layers, heads, channels and experts make
/// a smaller model, which every engine runs faster.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = catalogue())]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// magnitude, wanda, ria, sparsegpt or alps for zeros; depth, width, experts, vocabulary or size for a smaller model; several in order, also behind
    /// stages that rewrite [default: sparsegpt; without --data magnitude]
    #[arg(long, value_name = "NAME", value_parser = suggested::pruning_methods(), hide_possible_values = true)]
    method: Option<String>,
    /// Layers that go, by --method depth
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// The share of the weights that stays, by the best mix of depth and width (--method size)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = parse_share)]
    target_params: Option<f64>,
    /// Zeros per weight, more than 0 and less than 1 [default: 0.5]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = parse_share)]
    sparsity: Option<f64>,
    /// unstructured, or N:M: N zeros in each M consecutive inputs of a row [default: unstructured]
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// The share of each block: uniform or owl [default: uniform]
    ///
    /// With owl, blocks in which more weights stand out on --data get fewer zeros. The whole keeps its share.
    #[arg(long, value_name = "NAME", value_parser = ["uniform", "owl"], hide_possible_values = true)]
    allocation: Option<String>,
    /// Leave tensors matching this glob alone (repeatable)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Other zeros for tensors matching a glob: a share, 0 for none, or N:M (repeatable)
    #[arg(long = "override", value_name = "GLOB=ZEROS", value_parser = parse_override)]
    overrides: Vec<Override>,
    /// dense (safetensors) or gguf [default: gguf where the output ends in .gguf, else dense]
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Type of the weights: f32, f16, bf16 [default: as it is]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Start from an input that is quantized
    #[arg(long, hide_short_help = true)]
    dequantize: bool,
    /// Any key of a recipe: alps.iters=100 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    #[command(flatten)]
    storage: StorageArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The methods with what they cost, then the examples.
fn catalogue() -> String {
    let known = [shaping(), pruning()].concat();
    let defs = METHODS.iter().filter(|def| known.contains(&def.name));
    let lines: String = defs.map(|def| format!("  {}\n      {}\n", def.name, def.summary)).collect();
    format!("Methods:\n{lines}\n{EXAMPLES}")
}

/// Prunes.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let recipe = arguments.recipe()?;
    let calibration = &arguments.knowledge.calibration;
    quantization::run(&arguments.model, &recipe, &arguments.output, calibration, context)
}

impl Arguments {
    fn recipe(&self) -> Result<Recipe> {
        self.knowledge.refuse_idle()?;
        let has_text = self.knowledge.any();
        let format = dense_format(self.format.as_deref(), self.output.is_gguf())?;
        let mut recipe = Recipe {
            format: Some(format.to_owned()),
            dequantize: self.dequantize,
            dtype: self.dtype.clone(),
            exclude: self.exclude.clone(),
            overrides: self.overrides.clone(),
            max_shard_size: self.storage.max_shard_size,
            allow_nonfinite: self.storage.allow_nonfinite,
            calibration: has_text.then(|| self.knowledge.over(Calibration::default())),
            stages: self.stages(if has_text { "sparsegpt" } else { "magnitude" })?,
            ..Recipe::default()
        };
        self.set.iter().try_for_each(|assignment| recipe.set(assignment))?;
        Ok(recipe)
    }

    /// The stages, with the zeros and the layers that are asked for.
    fn stages(&self, default: &str) -> Result<Vec<Stage>> {
        let named = self.method.as_deref().unwrap_or(match (self.layers, self.target_params) {
            (Some(_), _) => "depth",
            (None, Some(_)) => "size",
            (None, None) => default,
        });
        let mut stages: Vec<Stage> = named.split(',').map(|name| Stage::new(name.trim())).collect();
        let (zeros, shapes) = (pruning(), shaping());
        if find(&mut stages, &[zeros.as_slice(), &shapes].concat()).is_none() {
            return Err(Self::prunes_nothing(named));
        }
        if let Some(share) = self.sparsity {
            Self::set_parameter(&mut stages, &zeros, "--sparsity", "sparsity", share.into())?;
        }
        if let Some(pattern) = &self.pattern {
            let pattern: Pattern = pattern.parse().map_err(|why: String| {
                Error::usage(why, "--pattern 2:4 makes two of each four weights zero")
            })?;
            Self::set_parameter(&mut stages, &zeros, "--pattern", "pattern", pattern.to_string().into())?;
        }
        if let Some(allocation) = &self.allocation {
            let allocation = allocation.as_str().into();
            Self::set_parameter(&mut stages, &zeros, "--allocation", "allocation", allocation)?;
        }
        if let Some(layers) = self.layers {
            let layers = i64::try_from(layers).unwrap_or(i64::MAX);
            Self::set_parameter(&mut stages, &["depth"], "--layers", "layers", layers.into())?;
        }
        if let Some(share) = self.target_params {
            Self::set_parameter(&mut stages, &["size"], "--target-params", "params", share.into())?;
        }
        Ok(stages)
    }

    /// Sets a parameter of the first stage that is one of these methods.
    fn set_parameter(
        stages: &mut [Stage],
        methods: &[&str],
        flag: &str,
        key: &str,
        value: toml::Value,
    ) -> Result<()> {
        let Some(stage) = find(stages, methods) else {
            let what = format!("{flag} without a method that takes it");
            return Err(Error::usage(what, format!("these do: {}", methods.join(", "))));
        };
        stage.parameters.insert(key.to_owned(), value);
        Ok(())
    }

    fn prunes_nothing(named: &str) -> Error {
        let known = [shaping(), pruning()].concat();
        match METHODS.iter().any(|def| same(def.name, named)) {
            true => {
                Error::usage(format!("{named} prunes nothing"), format!("these do: {}", known.join(", ")))
            }
            false => unknown("method", named, &known),
        }
    }
}

/// The first stage that is one of these methods.
fn find<'a>(stages: &'a mut [Stage], methods: &[&str]) -> Option<&'a mut Stage> {
    stages.iter_mut().find(|stage| methods.iter().any(|name| same(name, &stage.method)))
}

/// `0.5`, or `50%`.
fn parse_share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    number
        .trim()
        .parse::<f64>()
        .map(|share| share / whole)
        .map_err(|_| "give a share, such as 0.5 or 50%".to_owned())
}

/// `*.down_proj*=0.3`, `*.q_proj*=2:4`.
fn parse_override(text: &str) -> Result<Override, String> {
    let (glob, zeros) = text.split_once('=').ok_or("expected GLOB=SHARE or GLOB=N:M")?;
    let (sparsity, zeros) = match parse_share(zeros) {
        Ok(share) => (Some(share), None),
        Err(_) => (None, Some(zeros.parse()?)),
    };
    Ok(Override { pattern: glob.into(), sparsity, zeros, ..Override::default() })
}
