//! The settings of the hub, and its client.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder};

use super::failure::Failure;

/// The hub, its cache, and the settings of transfers.
#[derive(Debug, Clone)]
pub struct Hub {
    /// `https://huggingface.co`, without a slash at the end.
    pub endpoint: String,
    /// The folder of `models--…` folders.
    pub cache: PathBuf,
    /// For private and gated models.
    pub token: Option<String>,
    /// Use the cache alone.
    pub offline: bool,
    /// Give up when nothing arrives for so long.
    pub timeout: Duration,
    /// Draw bars on stderr, if that is a terminal.
    pub progress: bool,
}

impl Hub {
    pub(super) fn api(&self) -> Result<Api, Failure> {
        let builder =
            ApiBuilder::from_cache(Cache::new(self.cache.clone())).with_endpoint(self.endpoint.clone());
        Ok(builder
            .with_token(self.token.clone())
            .with_progress(false)
            .with_user_agent("llmc", env!("CARGO_PKG_VERSION"))
            .build()?)
    }
}
