//! The base that a model is compared with: its log-probabilities, from an earlier run or from the base itself.

use std::path::PathBuf;

use super::host::{Host, Notice};
use crate::backend::Device;
use crate::engine::{LanguageModel, Options};
use crate::error::Result;
use crate::eval::base::{BaseReader, BaseWriter, Identity, Precision};
use crate::eval::corpus::Corpus;
use crate::eval::perplexity::{BaseSource, WindowedText};
use crate::eval::windows::Protocol;
use crate::io::{Checkpoint, cache_folder};
use crate::pipeline::input_digest;

/// A base to compare a model with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// A path or a hub id.
    pub model: String,
    /// The folder that keeps the base's log-probabilities for later comparisons; `None` neither reads nor keeps them.
    pub cache: Option<PathBuf>,
    /// The precision in which they are held.
    pub precision: Precision,
}

impl BaseModel {
    /// A base whose log-probabilities are held in 16 bits, and kept in the default folder.
    pub fn new(model: impl Into<String>) -> BaseModel {
        BaseModel { model: model.into(), cache: BaseModel::default_cache(), precision: Precision::Bits16 }
    }

    /// The default folder; `None` if the user has no cache folder.
    pub fn default_cache() -> Option<PathBuf> {
        Some(cache_folder()?.join("base"))
    }
}

/// The limit on the bytes of the default folder. One that the user names has none.
const MOST_CACHED: u64 = 2_000_000_000;

/// The task that a base is run on.
pub(crate) struct Subject<'a> {
    /// The text.
    pub corpus: &'a Corpus,
    /// The windows.
    pub task: &'a WindowedText<'a>,
    /// The rule by which the text is cut.
    pub protocol: Protocol,
    /// Values of a row.
    pub vocabulary: usize,
    /// The way that the base is run.
    pub options: Options,
}

impl Subject<'_> {
    /// Opens the base's rows: those of an earlier run, or else those that the base is to make.
    ///
    /// # Errors
    /// A base that cannot be run. A damaged cache is made again.
    pub(crate) fn open(
        &self,
        base: &BaseModel,
        checkpoint: Checkpoint,
        host: &dyn Host,
    ) -> Result<BaseSource<'static>> {
        let precision = base.precision;
        let mut writer = None;
        if let Some(folder) = &base.cache {
            let weights = input_digest(&checkpoint, host.interrupted())?;
            let identity = self.identity(&checkpoint, weights, precision);
            let rows: Vec<usize> = self.task.windows.iter().map(|window| window.targets.len()).collect();
            match BaseReader::open(folder, &identity, &rows) {
                Ok(Some(reader)) => return Ok(BaseSource::File(reader, precision)),
                Ok(None) => {}
                Err(error) => host.notify(&Notice::Warning(format!("{error}; it is made again"))),
            }
            let bytes = self.task.targets() as u64 * precision.row_bytes(self.vocabulary);
            let most = if base.cache == BaseModel::default_cache() { MOST_CACHED } else { u64::MAX };
            writer = BaseWriter::create(folder, &identity, bytes, most)
                .inspect_err(|error| {
                    let hint = error.hint().map_or(String::new(), |hint| format!(" ({hint})"));
                    let what = format!("the base's log-probabilities are not kept: {error}{hint}");
                    host.notify(&Notice::Warning(what));
                })
                .ok();
        }
        let model = LanguageModel::open(checkpoint, self.options)?;
        Ok(BaseSource::Model { model: Box::new(model), precision, writer })
    }

    fn identity(&self, checkpoint: &Checkpoint, weights: String, precision: Precision) -> Identity {
        Identity {
            llmc: env!("CARGO_PKG_VERSION").into(),
            weights,
            config: blake3::hash(checkpoint.config_text().as_bytes()).to_hex().to_string(),
            tokens: self.corpus.digest(),
            protocol: self.protocol,
            first: self.task.first,
            windows: self.task.windows.len(),
            vocabulary: self.vocabulary,
            activations: self.numerics(),
            precision,
        }
    }

    /// The arithmetic that the base's rows depend on: `auto`, `f32 on a GPU`.
    fn numerics(&self) -> String {
        let place = match self.options.device {
            Device::Cpu => "",
            Device::Candle => " on candle",
            Device::Cuda(_) => " on a GPU",
        };
        format!("{:?}{place}", self.options.activations).to_lowercase()
    }
}
