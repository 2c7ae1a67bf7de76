//! A gated feed-forward network: down(activation(gate(x))·up(x)).

use crate::backend::{Activation, Backend};
use crate::error::Result;
use crate::model::layout::{InputPlace, Walk};
use crate::model::names::{Network, TensorName, TensorRole};
use crate::model::weights::{Loader, Location, misshapen};

/// A gated network: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gated {
    /// The linears that widen.
    pub input: GateUp,
    /// The linear that narrows.
    pub down: &'static str,
    /// The function of the gate.
    pub activation: Activation,
}

/// The linears that widen in a gated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUp {
    /// Gate and up.
    Separate([&'static str; 2]),
    /// One: all rows of gate, then all of up.
    Stacked(&'static str),
}

impl Gated {
    /// Lists its tensors, as those of this kind of network.
    pub(crate) fn tensors(&self, network: Network) -> Vec<TensorName> {
        let mut tensors = match self.input {
            GateUp::Separate([gate, up]) => vec![
                TensorName::new(TensorRole::Gate(network), gate),
                TensorName::new(TensorRole::Up(network), up),
            ],
            GateUp::Stacked(fused) => vec![TensorName::new(TensorRole::GateUp(network), fused)],
        };
        tensors.push(TensorName::new(TensorRole::Down(network), self.down));
        tensors
    }

    fn inputs(&self) -> &[&'static str] {
        match &self.input {
            GateUp::Separate(both) => both,
            GateUp::Stacked(fused) => std::slice::from_ref(fused),
        }
    }

    /// Loads it. The weights alone tell how wide it is: a shared expert may be wider than the others.
    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<GatedWeights<B>> {
        let inputs = self.inputs();
        let rows: Result<Vec<_>> = inputs.iter().map(|name| loader.rows(name, at)).collect();
        let rows = rows?;
        let even = rows.iter().all(|r| *r == rows[0]) && (rows.len() > 1 || rows[0] % 2 == 0);
        if !even {
            let name = loader.tensors.name(inputs[0], at);
            return Err(misshapen(&name, "as many rows of gate as of up".into(), format!("{rows:?}")));
        }
        let parts: Vec<_> = inputs.iter().copied().zip(rows.iter().copied()).collect();
        let width = rows.iter().sum::<usize>() / 2;
        let input = loader.linear(&parts, loader.hidden, at)?;
        let down = loader.linear(&[(self.down, loader.hidden)], width, at)?;
        Ok(GatedWeights { input, down, activation: self.activation })
    }

    /// Adds its linears to a layout. A gate multiplies, so that scales of up pass it.
    pub(super) fn walk(
        &self,
        walk: &mut Walk,
        expert: Option<usize>,
        from: InputPlace,
        writes_residual: bool,
    ) -> Result<()> {
        let mut up = 0;
        for pattern in self.inputs() {
            up = walk.linear(pattern, expert, from, false)?;
        }
        let rows = walk.rows(up)? as u32;
        let first = if matches!(self.input, GateUp::Stacked(_)) { rows / 2 } else { 0 };
        let mut active = walk.input(from.depth + 1);
        active.fold = Some(walk.fold(up, (first..rows).collect(), None)?);
        walk.linear(self.down, expert, active, writes_residual)?;
        Ok(())
    }
}

/// A gated network, loaded.
pub(in crate::model) struct GatedWeights<B: Backend> {
    /// Gate and up in one.
    input: B::Linear,
    down: B::Linear,
    activation: Activation,
}

impl<B: Backend> GatedWeights<B> {
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let active = backend.gate(&backend.linear(x, &self.input)?, self.activation)?;
        backend.linear(&active, &self.down)
    }
}
