//! Checks of an input before the work: its tensors against what config.json promises.

use serde_json::Value;

use super::role::Role;
use super::roles::Roles;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source};
use crate::model::{self, Weights};
use crate::names::shown;
use crate::tensor::DType;

/// Ends of the names of an adapter's factors that were not merged: PEFT's. Models that carry adapters of their own, one for each
/// kind of input, name them otherwise.
const ADAPTER_ENDS: [&str; 4] =
    [".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", ".lora_B.default.weight"];

/// Checks that a checkpoint is one whole model. Warns of tensors that the model does not load.
///
/// # Errors
/// Weights that another tool has packed; factors of an adapter among the weights; a tensor of the architecture that is missing or of another shape.
pub(crate) fn check_input(checkpoint: &Checkpoint, weights: &dyn Weights) -> Result<()> {
    checkpoint.refuse_packed()?;
    refuse_adapter(checkpoint)?;
    let Some(config) = &checkpoint.config else { return Ok(()) };
    let layers = model::check_promise(config, weights);
    let layers = layers.map_err(|error| error.in_checkpoint(&checkpoint.path))?;
    if let Some(layers) = layers {
        warn_of_surplus(checkpoint, config, layers);
    }
    Ok(())
}

fn refuse_adapter(checkpoint: &Checkpoint) -> Result<()> {
    let is_adapter = |name: &&String| ADAPTER_ENDS.iter().any(|end| name.ends_with(end));
    let mut names = checkpoint.tensors.keys().filter(is_adapter);
    let Some(first) = names.next().map(|name| shown(name)) else { return Ok(()) };
    let what = format!(
        "{}: {first} and {} more tensors are of a LoRA adapter that is not merged",
        checkpoint.path.display(),
        names.count()
    );
    Err(Error::unsupported(
        what,
        "merge it into the model with PEFT's merge_and_unload, save the result, and name that folder",
    ))
}

/// Warns of linears that the model does not have, and of layers beyond its last.
fn warn_of_surplus(checkpoint: &Checkpoint, config: &Value, layers: usize) {
    let Some(arch) = model::find(config) else { return };
    let roles = Roles::of(Some(config));
    let is_beyond = |name: &str| arch.tensor(name).and_then(|tensor| tensor.numbers.block) >= Some(layers);
    let is_linear = |source: &Source| roles.role(&source.name, &source.shape, DType::F32) == Role::Linear;
    let is_surplus = |source: &&Source| {
        is_beyond(&source.name) || source.shape.len() == 2 && is_linear(source) && !arch.loads(&source.name)
    };
    let mut surplus = checkpoint.tensors.values().filter(is_surplus);
    if let Some(first) = surplus.next() {
        let (path, name, count) = (checkpoint.path.display(), shown(&first.name), surplus.count() + 1);
        tracing::warn!(
            "{path}: {count} tensors ({name}, …) are not of the model of {layers} layers that config.json describes: \
             engines may not load them"
        );
    }
}
