//! One layer after the other goes: each time the one without which the predictions change least. All candidates run through the
//! model side by side, so that each block is loaded once for a round, and one is in memory at a time.

use serde::{Deserialize, Serialize};

use super::divergence::{Predictions, divergences};
use super::states::States;
use super::work::Work;
use crate::backend::Backend;
use crate::backend::cpu::{self, Cpu};
use crate::error::Result;
use crate::json::pretty;
use crate::model::{Block, Embedding, Head};
use crate::pipeline::blocks::{Batches, Chain, Machine, read_measured};
use crate::pipeline::options::{Event, check_interrupted};
use crate::recipe::Kept;

/// Tokens of the held-out part of the calibration set.
const HELD_OUT_TOKENS: usize = 4096;
/// Fewest layers that are tried again, of those that cost least in the round before.
const TRIED_AGAIN: usize = 8;

/// The findings of a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Round {
    /// The layers that were tried and the divergence without each, the least first.
    tried: Vec<(u32, f64)>,
}

impl Work<'_> {
    /// The layers that stay when one after the other goes.
    pub(super) fn greedy(&self, keep: usize) -> Result<Kept> {
        let layers = self.runner.model.layers.len();
        let goes = layers - keep;
        let held_out = held_out(self.survey.sequences);
        let mut tried: Vec<u32> = (0..layers as u32).collect();
        let mut gone: Vec<u32> = Vec::new();
        (self.runner.options.events)(&Event::Start { done: 0, of: goes * layers });
        while gone.len() < goes {
            let name = format!("round-{}.json", gone.len());
            let round = match read_measured::<Round>(&self.workspace.path(&name)) {
                Ok(round) => round,
                Err(_) => {
                    let round = self.round(&held_out, &gone, &tried)?;
                    let digest = self.workspace.write(&name, &pretty(&serde_json::json!(round)))?;
                    self.journal.block_done(gone.len(), &digest)?;
                    round
                }
            };
            tracing::info!(tried = ?round.tried, "divergence without each layer");
            let mut by_cost = round.tried.into_iter().map(|(layer, _)| layer);
            gone.extend(by_cost.next());
            tried = by_cost.take(TRIED_AGAIN.max(2 * goes)).collect();
        }
        Ok(Kept::new(gone).others(layers))
    }

    fn round(&self, held_out: &[Vec<u32>], gone: &[u32], tried: &[u32]) -> Result<Round> {
        let mut tried = match &self.runner.machine {
            Machine::Cpu => self.divergences(&Cpu::new(cpu::Activations::F32), held_out, gone, tried)?,
            Machine::Candle(candle) => self.divergences(candle, held_out, gone, tried)?,
        };
        tried.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        Ok(Round { tried })
    }

    /// The layers of `tried`, each with the mean KL divergence of the predictions from those of the whole model, without it and the layers
    /// that have gone.
    fn divergences<B: Backend>(
        &self,
        backend: &B,
        held_out: &[Vec<u32>],
        gone: &[u32],
        tried: &[u32],
    ) -> Result<Vec<(u32, f64)>> {
        let (model, weights) = (&self.runner.model, self.runner.weights());
        let batches = Batches::new(held_out);
        let embedding = Embedding::load(backend, model, &weights)?;
        let states = States::new(self, &batches);
        let (whole, cut) = (states.chain("whole")?, states.chain("cut")?);
        batches.embed(backend, model, &embedding, &[whole.clone(), cut.clone()])?;
        let mut without: Vec<(u32, Chain)> = Vec::new();
        for layer in 0..model.layers.len() as u32 {
            check_interrupted(self.runner.options)?;
            let index = gone.len() * model.layers.len() + layer as usize;
            (self.runner.options.events)(&Event::Block { index, of: index + 1 });
            let block = Block::load(backend, model, &weights, layer as usize)?;
            states.forward(backend, &block, &whole)?;
            if gone.contains(&layer) {
                continue;
            }
            without.iter().try_for_each(|(_, chain)| states.forward(backend, &block, chain))?;
            if tried.contains(&layer) {
                let chain = states.chain(&format!("without-{layer}"))?;
                states.copy(&cut, &chain)?;
                without.push((layer, chain));
            }
            states.forward(backend, &block, &cut)?;
        }
        let head = Head::load(backend, model, &weights, &embedding)?;
        let predictions = |chain: &Chain| {
            let chain = chain.clone();
            Predictions { backend, head: &head, states: Box::new(move |tokens| chain.read(tokens)) }
        };
        let others: Vec<_> = without.iter().map(|(_, chain)| predictions(chain)).collect();
        let stop = self.runner.options.interrupted;
        let found = divergences(&predictions(&whole), &others, batches.tokens(), stop)?;
        Ok(without.iter().map(|(layer, _)| *layer).zip(found).collect())
    }
}

/// The held-out sequences: the last ones, up to [`HELD_OUT_TOKENS`] tokens.
pub(crate) fn held_out(sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
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
