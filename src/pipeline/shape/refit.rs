//! Layers that have gone are made up for by the layer before them: the last linear of its feed-forward network is fitted to what the
//! hidden states were behind them.

use std::sync::Arc;

use super::states::States;
use super::weights::{weights_bytes, weights_file};
use super::work::Work;
use crate::backend::Backend;
use crate::backend::cpu::{self, Cpu};
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::model::{Block, Embedding, LinearPlace, stored_layout};
use crate::numerics::Weight;
use crate::pipeline::blocks::{Chain, Machine};
use crate::pipeline::options::check_interrupted;
use crate::recipe::Kept;
use crate::stage::{self, BlockLinear};

impl Work<'_> {
    /// Fits the layer before each gap, where that can be, and writes its weight.
    pub(super) fn close_gaps(&self, kept: &Kept) -> Result<()> {
        match &self.runner.machine {
            Machine::Cpu => self.close_gaps_on(&Cpu::new(cpu::Activations::F32), kept),
            Machine::Candle(candle) => self.close_gaps_on(candle, kept),
        }
    }

    fn close_gaps_on<B: Backend>(&self, backend: &B, kept: &Kept) -> Result<()> {
        let (model, weights) = (&self.runner.model, self.runner.weights());
        let states = States::new(self, self.batches());
        let (whole, cut) = (states.chain("whole")?, states.chain("cut")?);
        let embedding = Embedding::load(backend, model, &weights)?;
        self.batches().embed(backend, model, &embedding, &[whole.clone(), cut.clone()])?;
        let mut at = 0;
        for (index, &layer) in kept.numbers().iter().enumerate() {
            let next = kept.numbers().get(index + 1).map_or(model.layers.len(), |next| *next as usize);
            for layer in at..next {
                check_interrupted(self.runner.options)?;
                states.forward(backend, &Block::load(backend, model, &weights, layer)?, &whole)?;
            }
            at = next;
            let layer = layer as usize;
            let fitted = match self.fitted_linear(layer).filter(|_| next > layer + 1) {
                Some(place) => Some(self.fit(layer, &place, &cut, &whole)?),
                None => None,
            };
            let weights = self.runner.weights();
            let weights = match &fitted {
                Some(block) => weights.with(block, true),
                None => weights,
            };
            states.forward(backend, &Block::load(backend, model, &weights, layer)?, &cut)?;
        }
        Ok(())
    }

    /// The linear of a layer that can be fitted.
    fn fitted_linear(&self, layer: usize) -> Option<LinearPlace> {
        let weights = CheckpointWeights(Arc::clone(&self.runner.checkpoint));
        let layout = stored_layout(&self.runner.model, &weights, layer).ok()?;
        layout.last_writer().cloned()
    }

    /// Fits one layer, so that its outputs on `cut` come near to `whole`, and writes its weight.
    fn fit(&self, layer: usize, place: &LinearPlace, cut: &Chain, whole: &Chain) -> Result<stage::Block> {
        let fitted = self.runner.fit(layer, &self.runner.weights(), place, cut, whole)?;
        let linears = vec![BlockLinear::dense_only(&place.name, Weight::Dense(fitted.weight))];
        self.workspace.write(&weights_file(layer), &weights_bytes(&linears)?)?;
        Ok(stage::Block { index: layer, linears, ..stage::Block::default() })
    }
}
