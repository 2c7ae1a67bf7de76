//! A model loaded for evaluation or generation.

use std::path::PathBuf;

use super::host::Host;
use crate::engine::{Adapter, LanguageModel, Options};
use crate::error::Result;

/// The way that a model is run.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    /// Device, and rounding of activations.
    pub options: Options,
    /// A LoRA adapter in PEFT's form, on top of the weights.
    pub adapter: Option<PathBuf>,
}

impl Engine {
    /// Loads a model: a path or a hub id.
    ///
    /// # Errors
    /// See [`LanguageModel::open_with`].
    pub fn load(&self, model: &str, host: &dyn Host) -> Result<LanguageModel> {
        let adapter = self.adapter.as_deref().map(Adapter::open).transpose()?;
        LanguageModel::open_with(host.open(model)?, adapter, self.options)
    }
}
