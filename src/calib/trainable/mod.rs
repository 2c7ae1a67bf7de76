//! A decoder block as a function of its linears' weights, with gradients: how far its outputs on the calibration set are
//! from those of the uncompressed model. Methods that train see it as a [`Trainable`]; candle stays in this module.
//!
//! In f32, the block alone in memory. Gradients reach the weights that are given, and nothing else.

mod replacing;

use std::fmt;

use candle_core::{Tensor, Var};
use ndarray::Array2;

use crate::backend::candle::Candle;
use crate::backend::{Backend, Span};
use crate::error::{Error, Result};
use crate::model::{Block, Model, Weights};
use crate::stage::{Loss, Trainable};
use replacing::Replacing;

/// The inputs and targets of a block on the calibration set, sequence by sequence; read when needed, since all of it may not
/// fit into memory.
pub(crate) trait Activations: Send + Sync {
    /// Sequences.
    fn sequences(&self) -> usize;
    /// The input of the block in the compressed model, [tokens, hidden].
    fn input(&self, sequence: usize) -> Result<Vec<f32>>;
    /// The output of the uncompressed block in the uncompressed model, [tokens, hidden].
    fn target(&self, sequence: usize) -> Result<Vec<f32>>;
}

/// A block, loaded, and its part of the calibration set.
pub(crate) struct TrainableBlock {
    backend: Replacing,
    block: Block<Replacing>,
    model: Model,
    activations: Box<dyn Activations>,
}

impl TrainableBlock {
    /// Loads a block, and nothing else of the model.
    pub(crate) fn load(
        candle: Candle,
        model: &Model,
        weights: &dyn Weights,
        index: usize,
        activations: Box<dyn Activations>,
    ) -> Result<TrainableBlock> {
        let backend = Replacing::nothing(candle);
        let block = Block::load(&backend, model, weights, index)?;
        Ok(TrainableBlock { block, backend, model: model.clone(), activations })
    }

    /// Some sequences as one ragged batch: inputs, targets, and where each lies.
    fn batch(&self, samples: &[usize]) -> Result<(Tensor, Tensor, Vec<Span>)> {
        let hidden = self.model.hidden;
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

    fn loss(&self, weights: &[(String, Array2<f32>)], samples: &[usize]) -> Result<Loss> {
        let device = self.backend.device();
        let variables = weights.iter().map(|(_, values)| variable(values, device));
        let variables = variables.collect::<candle_core::Result<Vec<_>>>().map_err(Error::device)?;
        let given = weights.iter().zip(&variables);
        let given = given.map(|((name, _), variable)| (name.clone(), variable.as_tensor().clone()));
        let backend = self.backend.with(given.collect());
        let (x, target, spans) = self.batch(samples)?;
        let rotations = self.model.rotations(&spans);
        let y = self.block.forward(&backend, x, &rotations, &spans, None)?;
        descend(&y, &target, &variables).map_err(Error::device)
    }
}

fn variable(values: &Array2<f32>, device: &candle_core::Device) -> candle_core::Result<Var> {
    Var::from_vec(values.iter().copied().collect(), values.dim(), device)
}

/// The mean squared error of outputs, and its gradients in some variables.
fn descend(y: &Tensor, target: &Tensor, variables: &[Var]) -> candle_core::Result<Loss> {
    let loss = (y - target)?.sqr()?.mean_all()?;
    let store = loss.backward()?;
    let gradient = |variable: &Var| {
        let Some(gradient) = store.get(variable) else { return Ok(None) };
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        Ok(Some(
            Array2::from_shape_vec(variable.dims2()?, values).expect("a gradient has its variable's shape"),
        ))
    };
    let gradients = variables.iter().map(gradient).collect::<candle_core::Result<_>>()?;
    Ok(Loss { value: loss.to_scalar()?, gradients })
}

impl fmt::Debug for TrainableBlock {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("TrainableBlock").field("samples", &self.samples()).finish_non_exhaustive()
    }
}
