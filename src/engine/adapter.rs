//! LoRA adapters in PEFT's form, over the weights of a checkpoint: W + scale·B·A in the place of W.
//!
//! Reads what PEFT writes for plain LoRA on linear layers (`adapter_config.json`, `adapter_model.safetensors`), rank-stabilized
//! scaling and ranks that differ between layers included
//! (<https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py>). What else an adapter may hold
//! (DoRA, biases, embeddings, whole modules) is refused: nothing of it is left out in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array2, s};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::{Edited, Stored};
use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source};
use crate::model::Weights;
use crate::numerics::{LowRank, linalg};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What names of tensors begin with.
const PREFIX: &str = "base_model.model.";
/// What to do about an adapter that is not what it says.
const DAMAGED: &str = "the adapter is damaged, or is of another model";

/// What is read of the config. Keys that say how it was trained do not matter here.
#[derive(Debug, Deserialize)]
struct Config {
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

/// An adapter, opened.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    checkpoint: Checkpoint,
    config: Config,
    /// lora_A and lora_B of each module.
    modules: BTreeMap<String, [Source; 2]>,
}

impl Adapter {
    /// Opens a folder. Reads headers only.
    ///
    /// # Errors
    /// What is no LoRA adapter, or has something beside plain LoRA; a module that has one factor only.
    pub fn open(folder: &Path) -> Result<Adapter> {
        let config = read_config(&folder.join(CONFIG))?;
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            let hint = "llmc reads adapters that are saved as safetensors; name the folder that PEFT saved";
            return Err(Error::malformed(folder, WEIGHTS, "none", hint));
        }
        let checkpoint = Checkpoint::open(&weights.to_string_lossy())?;
        let modules = pairs(&checkpoint)?;
        Ok(Adapter { folder: folder.to_owned(), checkpoint, config, modules })
    }

    /// What a module's B·A is multiplied with: alpha / r, or alpha / √r.
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
        Ok(alpha / if self.config.use_rslora { rank.sqrt() } else { rank })
    }

    /// The factors of a module, B scaled.
    fn factors(&self, module: &str, [a, b]: &[Source; 2]) -> Result<LowRank> {
        let read = |source: &Source| -> Result<Array2<f32>> {
            let shape = source.rows_cols();
            let mut values = vec![0.0; shape[0] * shape[1]];
            self.checkpoint.read_rows(source, 0..shape[0], &mut values)?;
            Ok(Array2::from_shape_vec(shape, values).expect("as many values as the shape says"))
        };
        let scale = self.scale(module, a.rows_cols()[0])? as f32;
        Ok(LowRank { b: read(b)? * scale, a: read(a)? })
    }
}

fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let config: Config = serde_json::from_str(&text)
        .map_err(|e| Error::malformed(path, "peft_type, r and lora_alpha of a LoRA adapter", e, DAMAGED))?;
    let saved =
        config.modules_to_save.as_ref().and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let more = [
        (config.peft_type != "LORA", format!("peft_type {}", config.peft_type)),
        (config.use_dora, "DoRA".to_owned()),
        (config.fan_in_fan_out, "fan_in_fan_out".to_owned()),
        (saved, "modules_to_save".to_owned()),
        (config.layer_replication.as_ref().is_some_and(|v| !v.is_null()), "layer_replication".to_owned()),
    ];
    match more.into_iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(Error::unsupported(
            format!("{}: {what} is not plain LoRA", path.display()),
            "merge it into the model with PEFT's merge_and_unload, and evaluate that",
        )),
        None if !(config.r >= 1.0 && config.lora_alpha.is_finite()) => {
            let found = format!("r {}, lora_alpha {}", config.r, config.lora_alpha);
            Err(Error::malformed(path, "a rank of at least 1, and a finite lora_alpha", found, DAMAGED))
        }
        None => Ok(config),
    }
}

/// The two factors of each module.
fn pairs(checkpoint: &Checkpoint) -> Result<BTreeMap<String, [Source; 2]>> {
    let mut halves: BTreeMap<&str, [Option<&Source>; 2]> = BTreeMap::new();
    for source in checkpoint.tensors.values() {
        let (module, half) = parse(&source.name).filter(|_| source.shape.len() == 2).ok_or_else(|| {
            let what =
                format!("{}: {} is not plain LoRA of a linear", checkpoint.path.display(), source.name);
            Error::unsupported(
                what,
                "merge it into the model with PEFT's merge_and_unload, and evaluate that",
            )
        })?;
        halves.entry(module).or_default()[half] = Some(source);
    }
    let pair = |(module, halves): (&str, [Option<&Source>; 2])| match halves {
        [Some(a), Some(b)] if a.shape[0] == b.shape[1] => Ok((module.to_owned(), [a.clone(), b.clone()])),
        [Some(a), Some(b)] => {
            let expected = format!("as many columns as lora_A {:?} has rows", a.shape);
            Err(Error::malformed_tensor(
                &checkpoint.path,
                &b.name,
                expected,
                format!("{:?}", b.shape),
                DAMAGED,
            ))
        }
        _ => Err(Error::malformed_tensor(
            &checkpoint.path,
            module,
            "lora_A and lora_B",
            "one of them",
            DAMAGED,
        )),
    };
    halves.into_iter().map(pair).collect()
}

/// The module, and 0 for lora_A or 1 for lora_B.
fn parse(tensor: &str) -> Option<(&str, usize)> {
    let module = tensor.strip_prefix(PREFIX)?;
    let half = |(half, suffix): (usize, &str)| Some((module.strip_suffix(suffix)?, half));
    [".lora_A.weight", ".lora_B.weight"].into_iter().enumerate().find_map(half)
}

/// A checkpoint under an adapter.
pub struct Adapted {
    stored: Stored,
    adapter: Adapter,
}

impl Adapted {
    /// Looks every module of the adapter up.
    ///
    /// # Errors
    /// A module that the model does not have, or has in another shape.
    pub fn new(checkpoint: &Arc<Checkpoint>, adapter: Adapter) -> Result<Adapted> {
        for (module, [a, b]) in &adapter.modules {
            let name = format!("{module}.weight");
            let found = checkpoint.tensors.get(&name).ok_or_else(|| {
                let found = format!("no {name} in {}", checkpoint.path.display());
                Error::malformed_tensor(
                    &adapter.checkpoint.path,
                    module,
                    "a linear of the model",
                    found,
                    DAMAGED,
                )
            })?;
            let expected = [b.shape[0], a.shape[1]];
            if found.shape != expected {
                let (expected, found) = (format!("a weight {expected:?}"), format!("{:?}", found.shape));
                let file = &adapter.checkpoint.path;
                return Err(Error::malformed_tensor(file, module, expected, found, DAMAGED));
            }
        }
        Ok(Adapted { stored: Stored(Arc::clone(checkpoint)), adapter })
    }
}

impl Weights for Adapted {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.stored.shape(name)
    }

    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>> {
        let stored = self.stored.matrix(name)?;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let Some(pair) = self.adapter.modules.get(module) else { return Ok(stored) };
        let LowRank { b, a } = self.adapter.factors(module, pair)?;
        Ok(Arc::new(Edited::new(stored, move |rows, values| {
            *values += &linalg::product(b.slice(s![rows, ..]), a.view());
            Ok(())
        })))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        self.stored.vector(name)
    }
}
