//! LoRA adapters in PEFT's format: W + scale·B·A replaces a checkpoint's W.
//!
//! Reads plain LoRA of linear layers (`adapter_config.json`, `adapter_model.safetensors`), including rank-stabilized scaling
//! and ranks that differ between layers
//! (<https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py>). Refuses everything else (DoRA, biases,
//! embeddings, whole modules) and never drops it silently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array2, s};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::weights::{CheckpointWeights, EditedMatrix, read_values};
use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source, read_whole};
use crate::model::Weights;
use crate::numerics::{LowRank, linalg};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The prefix of tensor names.
const PREFIX: &str = "base_model.model.";
const DAMAGED: &str = "the adapter is damaged, or belongs to another model";
const MERGE: &str = "merge it into the model with PEFT's merge_and_unload, and evaluate the result";

/// The keys of the config that llmc needs. The others only describe the training.
#[derive(Debug, Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: f64,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    modules_to_save: Option<Value>,
    #[serde(default)]
    layer_replication: Option<Value>,
}

/// An open adapter.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    /// lora_A and lora_B by module.
    modules: BTreeMap<String, [Source; 2]>,
}

impl Adapter {
    /// Opens a folder. Reads only headers.
    ///
    /// # Errors
    /// A folder that is not a LoRA adapter, an adapter that is not plain LoRA, a module that has only one factor.
    pub(crate) fn open(folder: &Path) -> Result<Adapter> {
        let config = read_config(&folder.join(CONFIG))?;
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            let hint = "llmc reads adapters saved as safetensors; give the folder that PEFT saved";
            return Err(Error::malformed(folder, WEIGHTS, "none", hint));
        }
        let checkpoint = Checkpoint::open(&weights.to_string_lossy())?;
        let modules = pairs(&checkpoint)?;
        Ok(Adapter { folder: folder.to_owned(), checkpoint, config, modules })
    }

    /// Finds the model's weight of every module.
    ///
    /// # Errors
    /// A module that the model lacks, or whose weight has another shape.
    pub(crate) fn check_fits(&self, checkpoint: &Checkpoint) -> Result<()> {
        let file = &self.checkpoint.path;
        for (module, [a, b]) in &self.modules {
            let name = format!("{module}.weight");
            let found = checkpoint.tensors.get(&name).ok_or_else(|| {
                let found = format!("no {name} in {}", checkpoint.path.display());
                Error::malformed_tensor(file, module, "a linear of the model", found, DAMAGED)
            })?;
            let shape = [b.shape[0], a.shape[1]];
            if found.shape != shape {
                let expected = format!("a weight {shape:?}");
                return Err(Error::malformed_tensor(
                    file,
                    module,
                    expected,
                    format!("{:?}", found.shape),
                    DAMAGED,
                ));
            }
        }
        Ok(())
    }

    /// The factor of a module's B·A: alpha / r, or alpha / √r.
    fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let mut alpha = self.config.lora_alpha;
        for (pattern, own) in self.config.alpha_pattern.iter().flatten() {
            let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|e| {
                let file = self.folder.join(CONFIG);
                Error::malformed_tensor(file, "alpha_pattern", "regular expressions", e, DAMAGED)
            })?;
            if regex.is_match(module) {
                alpha = *own;
                break;
            }
        }
        let rank = rank as f64;
        let divisor = if self.config.use_rslora { rank.sqrt() } else { rank };
        Ok(alpha / divisor)
    }

    /// The factors of a module; B includes the scale.
    fn factors(&self, module: &str, [a, b]: &[Source; 2]) -> Result<LowRank> {
        let scale = self.scale(module, a.rows_cols()[0])? as f32;
        Ok(LowRank { b: self.matrix(b)? * scale, a: self.matrix(a)? })
    }

    fn matrix(&self, source: &Source) -> Result<Array2<f32>> {
        let values = read_values(&self.checkpoint, source)?;
        Ok(Array2::from_shape_vec(source.rows_cols(), values).expect("one value per element of the shape"))
    }
}

fn read_config(path: &Path) -> Result<AdapterConfig> {
    let config: AdapterConfig = serde_json::from_slice(&read_whole(path)?)
        .map_err(|e| Error::malformed(path, "peft_type, r and lora_alpha of a LoRA adapter", e, DAMAGED))?;
    if let Some(feature) = unsupported_feature(&config) {
        let what = format!("{}: {feature} is not plain LoRA", path.display());
        return Err(Error::unsupported(what, MERGE));
    }
    if !(config.r >= 1.0 && config.lora_alpha.is_finite()) {
        let found = format!("r {}, lora_alpha {}", config.r, config.lora_alpha);
        return Err(Error::malformed(path, "a rank of at least 1, and a finite lora_alpha", found, DAMAGED));
    }
    Ok(config)
}

/// The first setting that plain LoRA does not have.
fn unsupported_feature(config: &AdapterConfig) -> Option<String> {
    if config.peft_type != "LORA" {
        return Some(format!("peft_type {}", config.peft_type));
    }
    let saves_modules =
        config.modules_to_save.as_ref().and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let replicates = config.layer_replication.as_ref().is_some_and(|value| !value.is_null());
    let features = [
        (config.use_dora, "DoRA"),
        (config.fan_in_fan_out, "fan_in_fan_out"),
        (saves_modules, "modules_to_save"),
        (replicates, "layer_replication"),
    ];
    features.into_iter().find(|(used, _)| *used).map(|(_, name)| name.to_owned())
}

fn pairs(checkpoint: &Checkpoint) -> Result<BTreeMap<String, [Source; 2]>> {
    let mut halves: BTreeMap<&str, [Option<&Source>; 2]> = BTreeMap::new();
    for source in checkpoint.tensors.values() {
        let (module, half) = parse(&source.name).filter(|_| source.shape.len() == 2).ok_or_else(|| {
            let what =
                format!("{}: {} is not plain LoRA of a linear", checkpoint.path.display(), source.name);
            Error::unsupported(what, MERGE)
        })?;
        halves.entry(module).or_default()[half] = Some(source);
    }
    let file = &checkpoint.path;
    halves.into_iter().map(|(module, halves)| Ok((module.to_owned(), pair(file, module, halves)?))).collect()
}

/// Checks that both factors are present and that their ranks agree.
fn pair(file: &Path, module: &str, halves: [Option<&Source>; 2]) -> Result<[Source; 2]> {
    let [Some(a), Some(b)] = halves else {
        return Err(Error::malformed_tensor(file, module, "lora_A and lora_B", "one of them", DAMAGED));
    };
    if a.shape[0] != b.shape[1] {
        let expected = format!("as many columns as lora_A {:?} has rows", a.shape);
        return Err(Error::malformed_tensor(file, &b.name, expected, format!("{:?}", b.shape), DAMAGED));
    }
    Ok([a.clone(), b.clone()])
}

/// Splits a tensor's name into its module and 0 for lora_A or 1 for lora_B.
fn parse(tensor: &str) -> Option<(&str, usize)> {
    let name = tensor.strip_prefix(PREFIX)?;
    let lora_a = name.strip_suffix(".lora_A.weight").map(|module| (module, 0));
    lora_a.or_else(|| Some((name.strip_suffix(".lora_B.weight")?, 1)))
}

/// The weights of a checkpoint with an adapter applied.
pub(crate) struct AdaptedWeights {
    stored: CheckpointWeights,
    adapter: Adapter,
}

impl AdaptedWeights {
    /// Finds the model's weight of every module of the adapter.
    ///
    /// # Errors
    /// A module that the model lacks, or whose weight has another shape.
    pub(crate) fn new(checkpoint: &Arc<Checkpoint>, adapter: Adapter) -> Result<AdaptedWeights> {
        adapter.check_fits(checkpoint)?;
        Ok(AdaptedWeights { stored: CheckpointWeights(Arc::clone(checkpoint)), adapter })
    }
}

impl Weights for AdaptedWeights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.stored.shape(name)
    }

    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>> {
        let stored = self.stored.matrix(name)?;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let Some(pair) = self.adapter.modules.get(module) else { return Ok(stored) };
        let LowRank { b, a } = self.adapter.factors(module, pair)?;
        Ok(Arc::new(EditedMatrix::new(stored, move |rows, values| {
            *values += &linalg::product(b.slice(s![rows, ..]), a.view());
            Ok(())
        })))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        self.stored.vector(name)
    }
}
