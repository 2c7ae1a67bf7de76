//! Traffic of experts: the tokens that the router sends to each on the calibration set, and its outputs.

use std::sync::{Arc, Mutex, PoisonError};

use super::work::Work;
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Matrix, Route, Routing, Wrapper};
use crate::error::Result;
use crate::pipeline::blocks::{Chain, Machine};
use crate::prune::experts::{Traffic, most_salient};
use crate::recipe::{Kept, Surgery};
use crate::stage::Experts;

impl Work<'_> {
    /// Takes experts out of each block that has any, as many as `outline` does.
    pub(super) fn take_experts(&self, experts: &Experts, outline: &Surgery) -> Result<Surgery> {
        let blocks: Vec<Vec<Traffic>> =
            self.each_block(false, |index, input, output, _| match &self.runner.machine {
                Machine::Cpu => self.traffic(Cpu::new(cpu::Activations::F32), index, &input[0], &output[0]),
                Machine::Candle(candle) => self.traffic(candle.clone(), index, &input[0], &output[0]),
            })?;
        let kept = |(traffic, outline): (&Vec<Traffic>, &Kept)| {
            most_salient(traffic, outline.numbers().len(), experts.by)
        };
        let experts = blocks.iter().zip(&outline.experts).map(kept).collect();
        Ok(Surgery { experts, ..Surgery::default() })
    }

    /// Runs the calibration set through a block and counts what its experts do.
    fn traffic<B: Backend>(
        &self,
        backend: B,
        index: usize,
        input: &Chain,
        output: &Chain,
    ) -> Result<Vec<Traffic>> {
        let experts = self.sizes.experts[index].unwrap_or(0);
        let counting = Counting {
            inner: backend,
            state: Mutex::new(State { traffic: vec![Traffic::default(); experts], ..State::default() }),
        };
        self.runner.forward(index, &counting, &self.runner.weights(), input, |tokens, values| {
            output.write(tokens, values)
        })?;
        Ok(counting.state.into_inner().unwrap_or_else(PoisonError::into_inner).traffic)
    }
}

/// A backend that looks at the outputs of experts.
struct Counting<B> {
    inner: B,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The experts whose outputs are still to be added, in reverse.
    awaited: Vec<usize>,
    traffic: Vec<Traffic>,
}

impl<B: Backend> Wrapper for Counting<B> {
    type Inner = B;
    type Linear = B::Linear;

    fn inner(&self) -> &B {
        &self.inner
    }

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<B::Linear> {
        self.inner.load_linear(parts, bias)
    }

    fn tied_head(&self, table: &B::Table) -> Result<B::Linear> {
        self.inner.tied_head(table)
    }

    fn linear(&self, x: &B::Tensor, linear: &B::Linear) -> Result<B::Tensor> {
        self.inner.linear(x, linear)
    }

    fn route(&self, logits: &B::Tensor, routing: Routing) -> Result<Vec<Route<B::Tensor>>> {
        let routes = self.inner.route(logits, routing)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.awaited = routes.iter().rev().map(|route| route.expert).collect();
        Ok(routes)
    }

    /// The outputs of experts are added in the order of their routes; behind them, that of the shared expert.
    fn scatter_add(
        &self,
        x: B::Tensor,
        rows: &[u32],
        y: &B::Tensor,
        weights: &B::Tensor,
    ) -> Result<B::Tensor> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expert) = state.awaited.pop() {
            let norms = self.inner.read(y, |values| norms(values, rows.len()))?;
            let gates = self.inner.read(weights, <[f32]>::to_vec)?;
            let traffic = &mut state.traffic[expert];
            traffic.tokens += rows.len() as u64;
            traffic.output +=
                gates.iter().zip(norms).map(|(gate, norm)| f64::from(*gate) * norm).sum::<f64>();
        }
        drop(state);
        self.inner.scatter_add(x, rows, y, weights)
    }
}

/// The norm of each row.
fn norms(values: &[f32], rows: usize) -> Vec<f64> {
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    values.chunks((values.len() / rows.max(1)).max(1)).map(square).collect()
}
