//! Overrides of a recipe: their schemes and zeros, looked up.

use super::pruning;
use crate::error::{Error, Result};
use crate::numerics::presets::{self, ActivationScheme};
use crate::numerics::{Pattern, Scheme, Sparsity};
use crate::recipe::schemes::{adjust, find_preset};
use crate::recipe::{DENSE, Override};
use crate::stage::{self, Stage};

impl Override {
    /// Refuses an override that changes the quantization of inputs: it is the same for the whole model.
    pub(super) fn refuse_activations(&self, activations: Option<ActivationScheme>) -> Result<()> {
        let own =
            presets::find(&self.scheme).filter(|_| self.scheme != DENSE).map(|preset| preset.activations);
        match own {
            Some(own) if own != activations => Err(Error::usage(
                format!("{} for {}: it does otherwise with inputs than the rest", self.scheme, self.pattern),
                "inputs are rounded before every quantized linear (w8a8, fp8), or before none (w8a16, w4a16)",
            )),
            _ => Ok(()),
        }
    }

    /// The scheme; that of the recipe where it names none.
    pub(super) fn resolve(&self, of_recipe: Option<Scheme>) -> Result<Option<Scheme>> {
        match self.scheme.as_str() {
            "" if self.sparsity.is_some() || self.zeros.is_some() => Ok(of_recipe),
            DENSE => Ok(None),
            name => adjust(find_preset(name)?, self.group_size, self.symmetric).map(Some),
        }
    }

    /// The zeros, of a recipe with a stage that prunes; `None` for those of the stage.
    pub(super) fn zeros(&self, stages: &[Stage]) -> Result<Option<Sparsity>> {
        if self.sparsity.is_none() && self.zeros.is_none() {
            return Ok(None);
        }
        if !stages.iter().any(|stage| matches!(stage, Stage::Prune(_))) {
            let what = format!("the override {:?} asks for zeros, and no stage prunes", self.pattern);
            return Err(Error::usage(what, format!("add one in front: {}", pruning().join(", "))));
        }
        if self.sparsity == Some(0.0) && self.zeros.is_none() {
            return Ok(Some(Sparsity { share: 0.0, pattern: Pattern::Unstructured }));
        }
        stage::sparsity(&self.pattern, self.sparsity, self.zeros.unwrap_or_default()).map(Some)
    }
}
