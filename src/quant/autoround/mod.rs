//! `autoround`: rounding and clipping learned by signed gradient descent, a decoder block at a time.
//!
//! **What.** Every weight gets an offset V in [−½, ½] that may tip it to the other neighbour, and every group two factors
//! α, β in [0, 1] of its largest and smallest value:
//!
//! ```text
//! s = (max·α − min·β)/(2ᵇ − 1)      z = round(−min·β/s)      (symmetric: s from the larger magnitude, no z)
//! W̃ = s·(clamp(round(W/s + V) + z) − z)
//! ```
//!
//! They start at V = 0, α = β = 1, which is `rtn`, and take `iters` steps against the sign of the gradient of the squared
//! error of the block's output, each on `batch_size` of the calibration sequences; a step is `lr` at first and falls to 0
//! along a line. Rounding passes gradients on as if it were not there. The block reads what the compressed blocks before it
//! give, and its target is the output of the uncompressed model. Scales are rounded to the type they are stored in before
//! anything is rounded with them: what is trained is what is stored.
//!
//! **Why.** Errors of many weights cancel in what a block computes, through its attention and its feed-forward too, which
//! methods that look at one linear cannot see. The sign makes every weight travel alike: ½ in all, enough to tip any.
//!
//! **When.** 4 bits and fewer, where time allows: several times that of `gptq`.
//!
//! **Cost.** A step is a forward and a backward pass of the block over `batch_size` sequences: 6 operations per weight and
//! token, and memory for three copies of the block's weights in f32 beside the activations of the batch. Of SmolLM2-135M's
//! first block in INT4 symmetric g64, 128 sequences of 512 tokens: the block's squared error on text that it was not
//! trained on falls from 0.0541 (`rtn`; `mse` 0.0529) to 0.0183 in 50 steps of 4 sequences, and to 0.0149 in 200 steps of
//! 2 or of 4; 100 steps of 8 give 0.0154, so that few sequences and many steps is the way to spend a given time.
//!
//! References: Cheng et al. 2023, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs",
//! <https://arxiv.org/abs/2309.05516>; <https://github.com/intel/auto-round> (`data_type/int.py`, `sign_sgd.py`).

mod batches;
mod cell;
mod rounding;

use std::sync::Arc;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, within};
use crate::numerics::{Granularity, Number, Scheme};
use crate::stage::{
    self, Block, Def, Edits, Loss, Quantization, Quantize, QuantizedLinear, Scope, Stage, Trainable,
};
use batches::Batches;
use rounding::{Rounding, Steps};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "autoround",
    summary: "learn how each weight is rounded and each group clipped, block by block: needs calibration text and time",
    supports,
    build: |table| Ok(Stage::Quantize(Arc::new(stage::parse::<AutoRound>("autoround", table)?.validate()?))),
};

fn supports(scheme: &Scheme) -> Result<(), &'static str> {
    match (scheme.number, scheme.granularity) {
        (Number::Int { .. }, Granularity::Channel | Granularity::Group(_)) => Ok(()),
        (Number::Int { .. }, _) => {
            Err("autoround learns scales per channel or group: use a scheme with one of them, or rtn")
        }
        _ => Err("autoround learns how to round integers: use an integer scheme, or mse"),
    }
}

/// Learned rounding.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AutoRound {
    /// Steps per block.
    pub iters: usize,
    /// Calibration sequences per step.
    pub batch_size: usize,
    /// First step of V; 0 stands for 1/iters.
    pub lr: f32,
    /// First step of α and β; 0 stands for `lr`.
    pub minmax_lr: f32,
    /// True to learn α and β.
    pub enable_minmax_tuning: bool,
    /// Seed of the order of the sequences.
    pub seed: u64,
}

impl Default for AutoRound {
    fn default() -> Self {
        AutoRound { iters: 200, batch_size: 2, lr: 0.0, minmax_lr: 0.0, enable_minmax_tuning: true, seed: 42 }
    }
}

impl AutoRound {
    fn validate(self) -> Result<AutoRound> {
        within("autoround: iters", self.iters, 1..=100_000)?;
        within("autoround: batch_size", self.batch_size, 1..=4096)?;
        within("autoround: lr", self.lr, 0.0..=1.0)?;
        within("autoround: minmax_lr", self.minmax_lr, 0.0..=1.0)?;
        Ok(self)
    }
}

impl Quantize for AutoRound {
    fn scope(&self) -> Scope {
        Scope::Block
    }

    fn trains(&self) -> bool {
        true
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        let trainable = block.trainable.as_ref().ok_or_else(|| {
            Error::unsupported(
                "autoround: there is nothing to train on",
                "this method needs calibration text: name some with --data",
            )
        })?;
        let mut roundings = Vec::new();
        for linear in &block.linears {
            if let Some(scheme) = linear.scheme {
                let mask = linear.mask.as_ref().map(|mask| mask.view());
                roundings.push((linear.name.clone(), Rounding::new(linear.dense()?, mask, scheme)));
            }
        }
        let mut trained = self.train(roundings, trainable.as_ref())?.into_iter();
        let scheme = block.linears.iter().map(|linear| linear.scheme);
        let codes = scheme.map(|scheme| {
            let (_, rounding) = scheme.and_then(|_| trained.next())?;
            Some(QuantizedLinear { values: rounding.codes(), relative_error: None })
        });
        Ok(Quantization { codes: codes.collect(), edits: Edits::default() })
    }
}

type Roundings = Vec<(String, Rounding)>;

impl AutoRound {
    /// Takes all steps. Returns the roundings with the least loss.
    fn train(&self, mut roundings: Roundings, trainable: &dyn Trainable) -> Result<Roundings> {
        let mut batches = Batches::new(trainable.samples(), self.batch_size, self.seed);
        let mut weights = Vec::new();
        for (name, rounding) in &roundings {
            weights.push((name.clone(), matrix(rounding.values(), rounding.shape())));
        }
        let (mut best, mut least) = (roundings.clone(), f32::INFINITY);
        for step in 0..self.iters {
            let Loss { value, gradients } = trainable.loss(&weights, &batches.next())?;
            if value < least {
                (best, least) = (roundings.clone(), value);
            }
            let steps = self.steps(step);
            for (((_, rounding), (_, weight)), gradient) in
                roundings.iter_mut().zip(&mut weights).zip(gradients)
            {
                if let Some(gradient) = gradient {
                    *weight = matrix(rounding.step(gradient, steps), rounding.shape());
                }
            }
        }
        match least.is_finite() {
            true => Ok(best),
            false => Err(Error::unsupported(
                "autoround: the block's outputs are not finite on the calibration text",
                "`llmc eval perplexity` shows whether the model itself computes finite values",
            )),
        }
    }

    /// The size of a step of V, α and β.
    fn steps(&self, step: usize) -> Steps {
        let or = |given: f32, default: f32| if given > 0.0 { given } else { default };
        let lr = or(self.lr, 1.0 / self.iters as f32);
        let left = 1.0 - step as f32 / self.iters as f32;
        let clip = if self.enable_minmax_tuning { or(self.minmax_lr, lr) * left } else { 0.0 };
        Steps { offset: lr * left, clip }
    }
}

fn matrix(values: Vec<f32>, shape: (usize, usize)) -> Array2<f32> {
    Array2::from_shape_vec(shape, values).expect("as many values as the shape says")
}

#[cfg(test)]
mod tests;
