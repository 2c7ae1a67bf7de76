//! A decoder block as a function of its linears' weights, with gradients: how far its outputs on the calibration set are
//! from those of the uncompressed model. What methods that train see as [`Trainable`].
//!
//! On the CPU in f32, the block alone in memory. Gradients reach the weights that are given, and nothing else.

mod replacing;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use candle_core::Tensor;

use crate::backend::{Backend, Span};
use crate::error::{Error, Result};
use crate::model::{Block, Config, Weights};
use crate::stage::Trainable;
use replacing::Replacing;

/// What flows through a block on the calibration set, sequence by sequence; read when it is needed, since all of it may not
/// fit into memory.
pub trait Activations: Send + Sync {
    /// Sequences.
    fn sequences(&self) -> usize;
    /// What the compressed blocks before give this one, [tokens, hidden].
    fn input(&self, sequence: usize) -> Result<Vec<f32>>;
    /// What the uncompressed block gives on the uncompressed model's activations, [tokens, hidden].
    fn target(&self, sequence: usize) -> Result<Vec<f32>>;
}

/// A block, loaded, and its part of the calibration set.
pub struct TrainableBlock {
    backend: Replacing,
    block: Block<Replacing>,
    config: Config,
    activations: Box<dyn Activations>,
    /// Names of its linears' weights.
    names: BTreeSet<String>,
}

impl TrainableBlock {
    /// Loads a block, and nothing else of the model.
    pub fn load(
        config: &Config,
        weights: &dyn Weights,
        index: usize,
        activations: Box<dyn Activations>,
    ) -> Result<TrainableBlock> {
        let backend = Replacing::nothing()?;
        let block = Block::load(&backend, config, weights, index)?;
        let names = backend.names();
        Ok(TrainableBlock { block, names, backend, config: config.clone(), activations })
    }

    /// Some sequences as one ragged batch: inputs, targets, and where each lies.
    fn batch(&self, samples: &[usize]) -> Result<(Tensor, Tensor, Vec<Span>)> {
        let hidden = self.config.hidden;
        let (mut inputs, mut targets, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, &sample) in samples.iter().enumerate() {
            let input = self.activations.input(sample)?;
            spans.push(Span { slot, past: 0, len: input.len() / hidden });
            inputs.extend(input);
            targets.extend(self.activations.target(sample)?);
        }
        let rows = spans.iter().map(|span| span.len).sum();
        let tensor = |values: &[f32]| self.backend.tensor(rows, hidden, values);
        Ok((tensor(&inputs)?, tensor(&targets)?, spans))
    }
}

impl Trainable for TrainableBlock {
    fn samples(&self) -> usize {
        self.activations.sequences()
    }

    fn loss(
        &self,
        weight: &dyn Fn(&str) -> candle_core::Result<Option<Tensor>>,
        samples: &[usize],
    ) -> Result<Tensor> {
        let mut given = HashMap::new();
        for name in &self.names {
            if let Some(weight) = weight(name).map_err(Error::device)? {
                given.insert(name.clone(), weight);
            }
        }
        let backend = self.backend.with(given);
        let (x, target, spans) = self.batch(samples)?;
        let rotations = self.config.rotations(&spans);
        let y = self.block.forward(&backend, x, &rotations, &spans, None)?;
        (y - target).and_then(|error| error.sqr()?.mean_all()).map_err(Error::device)
    }
}

impl fmt::Debug for TrainableBlock {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("TrainableBlock").field("samples", &self.samples()).finish_non_exhaustive()
    }
}
