//! The flags for the base that a model is compared with.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::eval::base::Precision;
use crate::job::BaseModel;

/// The flags of a comparison.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparison")]
#[group(skip)]
pub(crate) struct Arguments {
    /// Compare with this model: KL divergence, Δp, same top token
    #[arg(long, value_name = "BASE")]
    against: Option<String>,
    /// Folder that keeps the base's log-probabilities for the next comparison [default: ~/.cache/llmc/base, 2 GB at most: the
    /// oldest go first]
    #[arg(long, value_name = "DIR")]
    base_cache: Option<PathBuf>,
    /// Neither read nor keep them: run the base
    #[arg(long, conflicts_with = "base_cache")]
    no_base_cache: bool,
    /// Their precision
    #[arg(long, value_enum, value_name = "FORM", default_value = "16bit")]
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

impl Arguments {
    /// The base to compare with, if one is named.
    pub(crate) fn base(&self) -> Option<BaseModel> {
        let cache = match (&self.base_cache, self.no_base_cache) {
            (_, true) => None,
            (Some(folder), false) => Some(folder.clone()),
            (None, false) => BaseModel::default_cache(),
        };
        let precision = match self.base_precision {
            Form::F32 => Precision::F32,
            Form::Bits16 => Precision::Bits16,
        };
        self.against.clone().map(|model| BaseModel { model, cache, precision })
    }
}
