//! Layers that have gone are made up for by the layer before them: the last linear of its feed-forward network is fitted to what the
//! hidden states were behind them.

use std::sync::{Arc, Mutex, PoisonError};

use super::states::States;
use super::weights::{weights_bytes, weights_file};
use super::work::Work;
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Matrix, Wrapper};
use crate::calib::observe::rows_of;
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::model::{Block, Embedding, LinearPlace, Weights, block_layout};
use crate::numerics::Weight;
use crate::pipeline::blocks::{Chain, Machine};
use crate::pipeline::options::check_interrupted;
use crate::prune::refit::Refit;
use crate::recipe::Kept;
use crate::stage::{self, BlockLinear};

impl Work<'_> {
    /// Fits the layer before each gap, where that can be, and writes its weight.
    pub(super) fn close_gaps(&self, kept: &Kept) -> Result<()> {
        match &self.runner.machine {
            Machine::Cpu => self.close_gaps_on(|| Cpu::new(cpu::Activations::F32), kept),
            Machine::Candle(candle) => self.close_gaps_on(|| candle.clone(), kept),
        }
    }

    fn close_gaps_on<B: Backend>(&self, open: impl Fn() -> B, kept: &Kept) -> Result<()> {
        let backend = &open();
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
                Some(place) => Some(self.fit(open(), layer, &place, &whole, &cut)?),
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

    /// The linear of a layer that can be fitted: the last of a plain feed-forward network, if its outputs are added to the
    /// residual stream as they are.
    pub(super) fn fitted_linear(&self, layer: usize) -> Option<LinearPlace> {
        self.sizes.channels[layer]?;
        let weights = CheckpointWeights(Arc::clone(&self.runner.checkpoint));
        let layout = block_layout(&self.runner.model, &weights, layer).ok()?;
        layout.linears.last().filter(|linear| linear.writes_residual && linear.expert.is_none()).cloned()
    }

    /// Fits one layer, so that its outputs on `cut` come near to `whole`.
    fn fit<B: Backend>(
        &self,
        backend: B,
        layer: usize,
        place: &LinearPlace,
        whole: &Chain,
        cut: &Chain,
    ) -> Result<stage::Block> {
        let (model, weights) = (&self.runner.model, self.runner.weights());
        let matrix = weights.matrix(&place.name)?;
        let weight = matrix.read(0..matrix.shape()[0])?.into_values();
        let mut refit = Refit::new(matrix.shape());
        let recording = Recording { inner: backend, name: place.name.clone(), inputs: Mutex::default() };
        let block = Block::load(&recording, model, &weights, layer)?;
        for batch in self.batches().all() {
            check_interrupted(self.runner.options)?;
            let (tokens, spans) = (self.batches().range(batch), self.batches().spans(batch));
            let x = recording.tensor(tokens.len(), model.hidden, &cut.read(&tokens)?)?;
            let y = block.forward(&recording, x, &model.rotations(&spans), &spans, None)?;
            let mut lacks = whole.read(&tokens)?;
            let scales: Vec<f32> = lacks.chunks(model.hidden).map(inverse_norm).collect();
            recording.read(&y, |values| lacks.iter_mut().zip(values).for_each(|(lack, y)| *lack -= y))?;
            let mut inputs =
                std::mem::take(&mut *recording.inputs.lock().unwrap_or_else(PoisonError::into_inner));
            scale(&mut lacks, &scales);
            scale(&mut inputs, &scales);
            refit.add(rows_of(&inputs, tokens.len())?, rows_of(&lacks, tokens.len())?);
        }
        let fitted = refit.solve(weight.view(), &place.name)?;
        matrix.release();
        let linears = vec![BlockLinear::dense_only(&place.name, Weight::Dense(fitted))];
        self.workspace.write(&weights_file(layer), &weights_bytes(&linears)?)?;
        Ok(stage::Block { index: layer, linears, ..stage::Block::default() })
    }
}

/// 1/‖x‖; 0 of zeros.
fn inverse_norm(x: &[f32]) -> f32 {
    let norm = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 { norm.recip() as f32 } else { 0.0 }
}

/// Multiplies each row by its scale.
fn scale(values: &mut [f32], scales: &[f32]) {
    let cols = (values.len() / scales.len().max(1)).max(1);
    let rows = values.chunks_mut(cols).zip(scales);
    rows.for_each(|(row, scale)| row.iter_mut().for_each(|value| *value *= scale));
}

/// A backend that keeps the inputs of one linear.
struct Recording<B> {
    inner: B,
    name: String,
    inputs: Mutex<Vec<f32>>,
}

/// A linear, and whether it is the one.
struct RecordedLinear<L> {
    inner: L,
    is_kept: bool,
}

impl<B: Backend> Wrapper for Recording<B> {
    type Inner = B;
    type Linear = RecordedLinear<B::Linear>;

    fn inner(&self) -> &B {
        &self.inner
    }

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Self::Linear> {
        let is_kept = parts.first().is_some_and(|part| part.name() == self.name);
        Ok(RecordedLinear { inner: self.inner.load_linear(parts, bias)?, is_kept })
    }

    fn tied_head(&self, table: &B::Table) -> Result<Self::Linear> {
        Ok(RecordedLinear { inner: self.inner.tied_head(table)?, is_kept: false })
    }

    fn linear(&self, x: &B::Tensor, linear: &Self::Linear) -> Result<B::Tensor> {
        if linear.is_kept {
            let values = self.inner.read(x, <[f32]>::to_vec)?;
            *self.inputs.lock().unwrap_or_else(PoisonError::into_inner) = values;
        }
        self.inner.linear(x, &linear.inner)
    }
}
