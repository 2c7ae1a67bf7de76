//! The flags of every command that runs a model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::backend::Device;
use crate::backend::cpu::Activations;
use crate::engine::Options;
use crate::job::Engine;

/// The flags of a model that runs.
#[derive(Debug, Args)]
// clap names a group after each struct, and the commands' own are called the same.
#[group(skip)]
pub(crate) struct Arguments {
    /// Rounding of the inputs of linear layers
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    activations: Rounding,
    /// Device: cpu, candle (on the CPU), cuda, cuda:NUMBER (feature candle-cuda)
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Device,
    /// A LoRA adapter in PEFT's form to run on top: DIR/adapter of what eora and lorc write
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
    /// The way that the model is run.
    pub(crate) fn engine(&self) -> Engine {
        let activations = match self.activations {
            Rounding::Auto => Activations::Auto,
            Rounding::F32 => Activations::F32,
        };
        Engine { options: Options { activations, device: self.device }, adapter: self.adapter.clone() }
    }
}
