//! How a model is run: the arguments that every command that runs one has.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Context;
use crate::backend::cpu::Activations;
use crate::engine::{Adapter, LanguageModel, Options};
use crate::error::Result;

/// How a model is run.
#[derive(Debug, Args)]
// clap names a group after each struct, and the commands' own are called the same.
#[group(skip)]
pub struct Arguments {
    /// How linear layers round their inputs
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    activations: Rounding,
    /// A LoRA adapter in PEFT's form, run on top of the model: DIR/adapter of what eora and lorc write
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

/// The choices of `--activations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rounding {
    /// To what is fastest: 8 bits for integer weights, bf16 for bf16 weights where the CPU multiplies it
    Auto,
    /// Not at all: exact, slower
    F32,
}

impl Arguments {
    /// How linear layers round their inputs.
    pub fn activations(&self) -> Activations {
        match self.activations {
            Rounding::Auto => Activations::Auto,
            Rounding::F32 => Activations::F32,
        }
    }

    /// Loads a model.
    pub(super) fn open(&self, model: &str, context: &Context) -> Result<LanguageModel> {
        let adapter = self.adapter.as_deref().map(Adapter::open).transpose()?;
        LanguageModel::open_with(context.open(model)?, adapter, Options { activations: self.activations() })
    }
}
