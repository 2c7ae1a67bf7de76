//! The distance of the predictions of a smaller model from those of the whole one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::divergence::{Predictions, divergences};
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Device};
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{Batch, Block, Embedding, Head, Model};
use crate::pipeline::blocks::{Batches, Machine};
use crate::pipeline::options::interrupted;

/// The mean KL divergence, over the tokens of some sequences, of the predictions of each of `cuts` from those of `whole`. One block is
/// in memory at a time.
///
/// # Errors
/// Models that llmc does not run, or that make no predictions; logits that are not finite.
pub(crate) fn divergences_of(
    cuts: &[Arc<Checkpoint>],
    whole: &Arc<Checkpoint>,
    sequences: &[Vec<u32>],
    device: Device,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    match Machine::open(device)? {
        Machine::Cpu => compare(&Cpu::new(cpu::Activations::F32), cuts, whole, sequences, stop),
        Machine::Candle(candle) => compare(&candle, cuts, whole, sequences, stop),
    }
}

fn compare<B: Backend>(
    backend: &B,
    cuts: &[Arc<Checkpoint>],
    whole: &Arc<Checkpoint>,
    sequences: &[Vec<u32>],
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let run = |checkpoint| Run::new(backend, checkpoint, sequences, stop);
    let (whole, cuts) = (run(whole)?, cuts.iter().map(run).collect::<Result<Vec<_>>>()?);
    let predictions = |run| Run::predictions(run, backend);
    let tokens = sequences.iter().map(Vec::len).sum();
    divergences(&predictions(&whole), &cuts.iter().map(predictions).collect::<Vec<_>>(), tokens, stop)
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
        let embed =
            |batch: &Range<usize>| embedding.embed(backend, &model, &Batch::whole(&sequences[batch.clone()]));
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

    fn predictions<'a>(&'a self, backend: &'a B) -> Predictions<'a, B> {
        let hidden = self.model.hidden;
        let states = Box::new(move |tokens: &Range<usize>| {
            Ok(self.states[tokens.start * hidden..tokens.end * hidden].to_vec())
        });
        Predictions { backend, head: &self.head, states }
    }
}
