//! The flags that say how tokens are chosen, shared by `generate` and `chat`.

use clap::Args;

use crate::engine::Sampling;

/// The flags of sampling.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct SamplingArguments {
    /// Choose at random, flatter the higher [default: 0, the likeliest token every time]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Choose from the likeliest tokens that reach this probability together
    #[arg(long, value_name = "P", requires = "temperature", default_value_t = 1.0)]
    top_p: f32,
    /// Choose from so many of the likeliest tokens [default: all]
    #[arg(long, value_name = "K", requires = "temperature", default_value_t = 0, hide_default_value = true)]
    top_k: usize,
    /// Begins the random numbers: the same seed gives the same text
    #[arg(long, value_name = "N", requires = "temperature", default_value_t = 0)]
    seed: u64,
}

impl SamplingArguments {
    /// The way that tokens are chosen.
    pub(crate) fn sampling(&self) -> Sampling {
        let SamplingArguments { top_p, top_k, seed, .. } = *self;
        Sampling { temperature: self.temperature.unwrap_or(0.0), top_p, top_k, seed }
    }
}
