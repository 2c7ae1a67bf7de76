//! The base that a model is compared with: the arguments, and where its log-probabilities come from.

use std::env;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::Context;
use crate::engine::{LanguageModel, Options};
use crate::error::Result;
use crate::eval::base::{BaseReader, BaseWriter, Identity, Precision};
use crate::eval::corpus::Corpus;
use crate::eval::perplexity::{BaseSource, WindowedText};
use crate::eval::windows::Protocol;
use crate::io::Checkpoint;
use crate::pipeline;

/// What a model is compared with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparison")]
#[group(skip)]
pub struct Arguments {
    /// Compare with this model: KL divergence, Δp, same top token
    #[arg(long, value_name = "BASE")]
    pub against: Option<String>,
    /// Where the base's log-probabilities are kept for the next comparison [default: ~/.cache/llmc/base]
    #[arg(long, value_name = "DIR")]
    base_cache: Option<PathBuf>,
    /// Neither read nor keep them: run the base
    #[arg(long, conflicts_with = "base_cache")]
    no_base_cache: bool,
    /// How they are held
    #[arg(long, value_enum, value_name = "FORM", default_value = "f32")]
    base_precision: Form,
}

/// [`Precision`] by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Exactly: about 3 bytes a value
    F32,
    /// In 16 bits over 16 nats, as llama.cpp does: 2 bytes a value, and llama.cpp's figures
    #[value(name = "16bit")]
    Bits16,
}

/// What the base is asked.
pub struct Subject<'a> {
    /// The text.
    pub corpus: &'a Corpus,
    /// How it is cut.
    pub task: &'a WindowedText<'a>,
    /// By what rule.
    pub protocol: Protocol,
    /// Values of a row.
    pub vocabulary: usize,
    /// How it is run.
    pub options: Options,
}

impl Subject<'_> {
    /// What the base's rows depend on besides its weights: `auto`, `f32 on a GPU`.
    fn numerics(&self) -> String {
        let place = if self.options.gpu.is_some() { " on a GPU" } else { "" };
        format!("{:?}{place}", self.options.activations).to_lowercase()
    }

    fn identity(&self, checkpoint: &Checkpoint, weights: String, precision: Precision) -> Identity {
        let config = checkpoint.config.as_ref().map(ToString::to_string).unwrap_or_default();
        Identity {
            llmc: env!("CARGO_PKG_VERSION").into(),
            weights,
            config: blake3::hash(config.as_bytes()).to_hex().to_string(),
            tokens: self.corpus.digest(),
            protocol: self.protocol,
            first: self.task.first,
            windows: self.task.windows.len(),
            vocabulary: self.vocabulary,
            activations: self.numerics(),
            precision,
        }
    }
}

impl Arguments {
    /// How the base's log-probabilities are held.
    pub fn precision(&self) -> Precision {
        match self.base_precision {
            Form::F32 => Precision::F32,
            Form::Bits16 => Precision::Bits16,
        }
    }

    /// The base's rows: from an earlier run, or from the base itself.
    pub fn open(
        &self,
        checkpoint: Checkpoint,
        subject: &Subject,
        context: &Context,
    ) -> Result<BaseSource<'static>> {
        let precision = self.precision();
        let folder = if self.no_base_cache {
            None
        } else {
            self.base_cache.clone().or_else(|| Some(crate::io::cache_folder()?.join("base")))
        };
        let mut writer = None;
        if let Some(folder) = folder {
            let weights = pipeline::input_digest(&checkpoint, &context.interrupted)?;
            let identity = subject.identity(&checkpoint, weights, precision);
            let rows: Vec<usize> = subject.task.windows.iter().map(|window| window.targets.len()).collect();
            match BaseReader::open(&folder, &identity, &rows) {
                Ok(Some(reader)) => return Ok(BaseSource::File(reader, precision)),
                Ok(None) => {}
                Err(error) => eprintln!("warning: {error}; it is made again"),
            }
            let bytes = subject.task.targets() as u64 * precision.row_bytes(subject.vocabulary);
            writer = BaseWriter::create(&folder, &identity, bytes).inspect_err(warn).ok();
        }
        let model = LanguageModel::open(checkpoint, subject.options)?;
        Ok(BaseSource::Model { model: Box::new(model), precision, writer })
    }
}

fn warn(error: &crate::error::Error) {
    eprintln!("warning: the base's log-probabilities are not kept: {error}");
    error.hint().inspect(|hint| eprintln!("hint: {hint}"));
}
