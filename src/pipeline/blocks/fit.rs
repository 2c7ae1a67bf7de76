//! The last linear of a block, fitted by least squares so that the block's outputs come near to others: to those of the original
//! model, where blocks before it have lost something.

use std::sync::{Arc, Mutex, PoisonError};

use ndarray::Array2;

use super::chain::Chain;
use super::machine::Machine;
use super::passes::not_finite;
use super::runner::Runner;
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Matrix, Wrapper};
use crate::calib::observe::rows_of;
use crate::error::Result;
use crate::model::{LinearPlace, Weights};
use crate::prune::refit::Refit;
use crate::statistics::Statistics;

/// A linear that was fitted.
pub(crate) struct Fitted {
    /// Its weight, as it is stored.
    pub weight: Array2<f32>,
    /// The second moment of its inputs, each token divided by the norm of the state behind the block.
    pub inputs: Statistics,
}

impl Runner<'_> {
    /// Fits a linear, the [last](crate::model::BlockLayout::last_writer) of a block, whose outputs come nearest to
    /// `target`. Each token counts relative to the norm of its target: the next norm divides by that, too.
    ///
    /// # Errors
    /// Inputs that are not finite.
    pub(crate) fn fit(
        &self,
        index: usize,
        weights: &dyn Weights,
        place: &LinearPlace,
        input: &Chain,
        target: &Chain,
    ) -> Result<Fitted> {
        let name = &place.name;
        let matrix = weights.matrix(name)?;
        let weight = place.turned(matrix.read(0..matrix.shape()[0])?.into_values());
        matrix.release();
        let mut refit = Refit::new([weight.nrows(), weight.ncols()]);
        match &self.machine {
            Machine::Cpu => {
                let cpu = Cpu::new(cpu::Activations::F32);
                self.gather_fit(cpu, index, weights, name, [input, target], &mut refit)?;
            }
            Machine::Candle(candle) => {
                self.gather_fit(candle.clone(), index, weights, name, [input, target], &mut refit)?;
            }
        }
        let weight =
            refit.solve(weight.view()).ok_or_else(|| not_finite(format_args!("{name}: its inputs")))?;
        Ok(Fitted { weight: place.turned(weight), inputs: refit.statistics() })
    }

    /// Sums the inputs of a linear, and what the block's outputs lack.
    fn gather_fit<B: Backend>(
        &self,
        backend: B,
        index: usize,
        weights: &dyn Weights,
        name: &str,
        [input, target]: [&Chain; 2],
        refit: &mut Refit,
    ) -> Result<()> {
        let backend = Recording { inner: backend, name: name.to_owned(), inputs: Mutex::default() };
        self.forward(index, &backend, weights, input, |tokens, outputs| {
            let mut lacks = target.read(tokens)?;
            let scales: Vec<f32> = lacks.chunks(self.model.hidden).map(inverse_norm).collect();
            lacks.iter_mut().zip(outputs).for_each(|(lack, output)| *lack -= output);
            let mut inputs = backend.take();
            scale(&mut lacks, &scales);
            scale(&mut inputs, &scales);
            refit.add(rows_of(&inputs, tokens.len())?, rows_of(&lacks, tokens.len())?);
            Ok(())
        })
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

impl<B> Recording<B> {
    /// The inputs of the last pass.
    fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.inputs.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
