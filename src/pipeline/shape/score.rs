//! The distance of the predictions of a smaller model from those of the whole one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::divergence::{divergence, log_probabilities};
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Device};
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{Batch, Block, Embedding, Head, Model};
use crate::pipeline::blocks::{Batches, Machine};
use crate::pipeline::options::interrupted;

/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 256;

/// The mean KL divergence, over the tokens of some sequences, of the predictions of `cut` from those of `whole`. One block is in memory
/// at a time.
///
/// # Errors
/// Models that llmc does not run, or that make no predictions; logits that are not finite.
pub(crate) fn divergence_of(
    cut: &Arc<Checkpoint>,
    whole: &Arc<Checkpoint>,
    sequences: &[Vec<u32>],
    device: Device,
    stop: &AtomicBool,
) -> Result<f64> {
    match Machine::open(device)? {
        Machine::Cpu => compare(&Cpu::new(cpu::Activations::F32), cut, whole, sequences, stop),
        Machine::Candle(candle) => compare(&candle, cut, whole, sequences, stop),
    }
}

fn compare<B: Backend>(
    backend: &B,
    cut: &Arc<Checkpoint>,
    whole: &Arc<Checkpoint>,
    sequences: &[Vec<u32>],
    stop: &AtomicBool,
) -> Result<f64> {
    let [cut, whole] = [cut, whole].map(|checkpoint| Run::new(backend, checkpoint, sequences, stop));
    let (cut, whole) = (cut?, whole?);
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let mut sum = 0.0;
    for first in (0..tokens).step_by(CHUNK) {
        let count = CHUNK.min(tokens - first);
        let base = log_probabilities(whole.logits(backend, first, count)?, whole.head.vocabulary())?;
        sum += divergence(&cut.logits(backend, first, count)?, &base, cut.head.vocabulary())?;
    }
    Ok(sum / tokens.max(1) as f64)
}

/// A model that has run over the sequences.
struct Run<B: Backend> {
    model: Model,
    head: Head<B>,
    /// The outputs of the last block, [tokens, hidden].
    states: Vec<f32>,
}

impl<B: Backend> Run<B> {
    fn new(
        backend: &B,
        checkpoint: &Arc<Checkpoint>,
        sequences: &[Vec<u32>],
        stop: &AtomicBool,
    ) -> Result<Run<B>> {
        let weights = CheckpointWeights(Arc::clone(checkpoint));
        let model = weights.model()?;
        let batches = Batches::new(sequences);
        let embedding = Embedding::load(backend, &model, &weights)?;
        let embed = |batch: &std::ops::Range<usize>| {
            embedding.embed(backend, &model, &Batch::whole(&sequences[batch.clone()]))
        };
        let mut states = batches.all().iter().map(embed).collect::<Result<Vec<B::Tensor>>>()?;
        for layer in 0..model.layers.len() {
            if stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            let block = Block::load(backend, &model, &weights, layer)?;
            let forward = |(x, batch)| {
                let spans = batches.spans(batch);
                block.forward(backend, x, &model.rotations(&spans), &spans, None)
            };
            states = states.into_iter().zip(batches.all()).map(forward).collect::<Result<_>>()?;
        }
        let values = states.iter().map(|x| backend.read(x, <[f32]>::to_vec));
        let states = values.collect::<Result<Vec<_>>>()?.concat();
        let head = Head::load(backend, &model, &weights, &embedding)?;
        Ok(Run { model, head, states })
    }

    fn logits(&self, backend: &B, first: usize, count: usize) -> Result<Vec<f32>> {
        let hidden = self.model.hidden;
        let x = backend.tensor(count, hidden, &self.states[first * hidden..(first + count) * hidden])?;
        let logits = self.head.logits(backend, &self.head.norm(backend, x)?)?;
        backend.read(&logits, <[f32]>::to_vec)
    }
}
