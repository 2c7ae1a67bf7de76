//! One layer after the other goes: each time the one without which the predictions change least. All candidates run through the
//! model side by side, so that each block is loaded once for a round, and one is in memory at a time.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Work;
use crate::backend::Backend;
use crate::backend::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::eval::softmax::LogSoftmax;
use crate::json::pretty;
use crate::model::{Block, Embedding, Head};
use crate::pipeline::blocks::{Batches, Chain, Machine, not_finite};
use crate::pipeline::options::{Event, check_interrupted};
use crate::prune::depth::least_first;
use crate::recipe::Kept;

/// Tokens of the held-out part of the calibration set.
const HELD_OUT_TOKENS: usize = 8192;
/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 256;
/// Fewer layers than these are all tried.
const ALL_TRIED: usize = 64;

/// A layer that goes, as a round has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Round {
    layer: u32,
    divergence: f64,
}

impl Work<'_> {
    /// The layers that stay when one after the other goes.
    pub(super) fn greedy(&self, keep: usize) -> Result<Kept> {
        let influences: Vec<f64> = self.measure_layers()?.iter().map(|layer| layer.influence).collect();
        let layers = influences.len();
        let (goes, tried) = (layers - keep, (layers / 2).max(ALL_TRIED));
        let candidates: Vec<u32> =
            least_first(&influences).into_iter().take(tried.max(layers - keep).min(layers)).collect();
        let held_out = held_out(self.survey.sequences);
        (self.runner.options.events)(&Event::Start { done: 0, of: goes * layers });
        let mut gone: Vec<u32> = Vec::new();
        while gone.len() < goes {
            let name = format!("round-{}.json", gone.len());
            let round = match self.measured::<Round>(&name) {
                Ok(round) => round,
                Err(_) => {
                    let round = self.round(&held_out, &gone, &candidates)?;
                    self.workspace.write(&name, &pretty(&serde_json::json!(round)))?;
                    round
                }
            };
            tracing::info!(layer = round.layer, divergence = round.divergence, "a layer goes");
            gone.push(round.layer);
        }
        Ok(Kept::new(gone).others(layers))
    }

    fn round(&self, held_out: &[Vec<u32>], gone: &[u32], candidates: &[u32]) -> Result<Round> {
        let tried: Vec<u32> = candidates.iter().copied().filter(|layer| !gone.contains(layer)).collect();
        let divergences = match &self.runner.machine {
            Machine::Cpu => self.divergences(&Cpu::new(cpu::Activations::F32), held_out, gone, &tried)?,
            Machine::Candle(candle) => self.divergences(candle, held_out, gone, &tried)?,
        };
        tracing::debug!(?tried, ?divergences, "divergence without each layer");
        let least = (0..tried.len()).min_by(|a, b| divergences[*a].total_cmp(&divergences[*b]));
        let least = least.ok_or_else(|| Error::usage("no layer is left to go", "keep more layers"))?;
        Ok(Round { layer: tried[least], divergence: divergences[least] })
    }

    /// The mean KL divergence of the predictions from those of the whole model, without the layers that have gone and one more: each
    /// of `tried`.
    fn divergences<B: Backend>(
        &self,
        backend: &B,
        held_out: &[Vec<u32>],
        gone: &[u32],
        tried: &[u32],
    ) -> Result<Vec<f64>> {
        let (model, weights) = (&self.runner.model, self.runner.weights());
        let batches = Batches::new(held_out);
        let embedding = Embedding::load(backend, model, &weights)?;
        let states = States { work: self, batches: &batches };
        let whole = states.chain("whole")?;
        let cut = states.chain("cut")?;
        batches.embed(backend, model, &embedding, &[whole.clone(), cut.clone()])?;
        let mut without: Vec<Option<Chain>> = vec![None; tried.len()];
        for layer in 0..model.layers.len() as u32 {
            check_interrupted(self.runner.options)?;
            let index = gone.len() * model.layers.len() + layer as usize;
            (self.runner.options.events)(&Event::Block { index, of: index + 1 });
            let block = Block::load(backend, model, &weights, layer as usize)?;
            states.forward(backend, &block, &whole)?;
            if gone.contains(&layer) {
                continue;
            }
            if let Some(index) = tried.iter().position(|candidate| *candidate == layer) {
                let chain = states.chain(&format!("without-{layer}"))?;
                states.copy(&cut, &chain)?;
                without[index] = Some(chain);
                (0..tried.len())
                    .filter(|other| *other != index)
                    .filter_map(|other| without[other].as_ref())
                    .try_for_each(|chain| states.forward(backend, &block, chain))?;
            } else {
                without.iter().flatten().try_for_each(|chain| states.forward(backend, &block, chain))?;
            }
            states.forward(backend, &block, &cut)?;
        }
        let head = Head::load(backend, model, &weights, &embedding)?;
        states.compare(backend, &head, &whole, &without.into_iter().flatten().collect::<Vec<_>>())
    }
}

/// The held-out sequences: the last ones, up to [`HELD_OUT_TOKENS`] tokens.
fn held_out(sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut tokens = 0;
    let fits = |sequence: &&Vec<u32>| {
        let first = tokens == 0;
        tokens += sequence.len();
        first || tokens <= HELD_OUT_TOKENS
    };
    let mut found: Vec<Vec<u32>> = sequences.iter().rev().take_while(fits).cloned().collect();
    found.reverse();
    found
}

/// The states of the held-out sequences, in files of the partial output.
struct States<'a> {
    work: &'a Work<'a>,
    batches: &'a Batches<'a>,
}

impl States<'_> {
    fn chain(&self, name: &str) -> Result<Chain> {
        let path = self.work.workspace.path(&format!("{name}.f32"));
        Chain::create(&path, self.batches.tokens(), self.work.runner.model.hidden)
    }

    fn copy(&self, from: &Chain, to: &Chain) -> Result<()> {
        self.batches.all().iter().try_for_each(|batch| {
            let tokens = self.batches.range(batch);
            to.write(&tokens, &from.read(&tokens)?)
        })
    }

    /// Runs a chain through a block, in place.
    fn forward<B: Backend>(&self, backend: &B, block: &Block<B>, chain: &Chain) -> Result<()> {
        let model = &self.work.runner.model;
        for batch in self.batches.all() {
            let (tokens, spans) = (self.batches.range(batch), self.batches.spans(batch));
            let x = backend.tensor(tokens.len(), model.hidden, &chain.read(&tokens)?)?;
            let y = block.forward(backend, x, &model.rotations(&spans), &spans, None)?;
            backend.read(&y, |values| chain.write(&tokens, values))??;
        }
        Ok(())
    }

    /// The mean divergence of each chain's predictions from those of `whole`.
    fn compare<B: Backend>(
        &self,
        backend: &B,
        head: &Head<B>,
        whole: &Chain,
        chains: &[Chain],
    ) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; chains.len()];
        let all = self.batches.tokens();
        for first in (0..all).step_by(CHUNK) {
            check_interrupted(self.work.runner.options)?;
            let tokens = first..(first + CHUNK).min(all);
            let base = log_probabilities(self.logits(backend, head, whole, &tokens)?, head.vocabulary())?;
            for (sum, chain) in sums.iter_mut().zip(chains) {
                let logits = self.logits(backend, head, chain, &tokens)?;
                *sum += divergence(&logits, &base, head.vocabulary())?;
            }
        }
        Ok(sums.into_iter().map(|sum| sum / all.max(1) as f64).collect())
    }

    fn logits<B: Backend>(
        &self,
        backend: &B,
        head: &Head<B>,
        chain: &Chain,
        tokens: &Range<usize>,
    ) -> Result<Vec<f32>> {
        let hidden = self.work.runner.model.hidden;
        let x = backend.tensor(tokens.len(), hidden, &chain.read(tokens)?)?;
        let logits = head.logits(backend, &head.norm(backend, x)?)?;
        backend.read(&logits, <[f32]>::to_vec)
    }
}

/// Log-probabilities in the place of logits.
fn log_probabilities(mut logits: Vec<f32>, vocabulary: usize) -> Result<Vec<f32>> {
    for row in logits.chunks_mut(vocabulary) {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("the model's logits"))?;
        row.iter_mut().for_each(|logit| *logit = softmax.log_probability(*logit));
    }
    Ok(logits)
}

/// The sum of the divergences of rows of logits from rows of log-probabilities.
fn divergence(logits: &[f32], base: &[f32], vocabulary: usize) -> Result<f64> {
    let rows = logits.chunks(vocabulary).zip(base.chunks(vocabulary));
    let each = rows.map(|(row, base)| {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("logits without some of the layers"))?;
        Ok(softmax.divergence(row, base, f32::NEG_INFINITY))
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::held_out;

    #[test]
    fn the_last_sequences_are_held_out() {
        let sequences = vec![vec![0; 2000], vec![1; 2000], vec![2; 2000]];
        assert_eq!(held_out(&sequences), sequences[1..]);
        assert_eq!(held_out(&[vec![0; 9000], vec![1; 9000]]), [vec![1; 9000]]);
    }
}
