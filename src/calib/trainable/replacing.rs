//! The backend that a block is trained on: candle's, with some weights of linears replaced at each forward pass.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::backend::candle::{Candle, Linear, Table};
use crate::backend::{Backend, Matrix, Wrapper};
use crate::error::{Error, Result};

/// Candle under weights that replace those that were loaded.
#[derive(Debug)]
pub(super) struct Replacing {
    candle: Candle,
    /// Replacements by the name in the file.
    given: HashMap<String, Tensor>,
}

impl Replacing {
    /// Replaces nothing.
    pub(crate) fn nothing(candle: Candle) -> Replacing {
        Replacing { candle, given: HashMap::new() }
    }

    /// The device of its tensors.
    pub(crate) fn device(&self) -> &candle_core::Device {
        self.candle.device()
    }

    /// The same backend with these weights, [rows, cols] as the file has them.
    pub(crate) fn with(&self, given: HashMap<String, Tensor>) -> Replacing {
        Replacing { candle: self.candle.clone(), given }
    }

    /// The weight of a part: its replacement, or as it was loaded.
    fn weight(&self, part: &Part) -> candle_core::Result<Tensor> {
        match self.given.get(&part.name) {
            Some(given) if given.dims() == part.weight.dims() => Ok(given.clone()),
            Some(given) => given.narrow(0, part.first_row, part.weight.dim(0)?),
            None => Ok(part.weight.clone()),
        }
    }
}

/// Linears stacked by rows.
pub(super) struct StackedLinear {
    parts: Vec<Part>,
    bias: Option<Tensor>,
}

/// A linear, or rows of one.
struct Part {
    name: String,
    first_row: usize,
    /// The weight as it was loaded.
    weight: Tensor,
}

impl Wrapper for Replacing {
    type Inner = Candle;
    type Linear = StackedLinear;

    fn inner(&self) -> &Candle {
        &self.candle
    }

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<StackedLinear> {
        let loaded = self.candle.load_linear(parts, bias)?;
        let part = |(part, weight): (&Arc<dyn Matrix>, &Tensor)| Part {
            name: part.name().to_owned(),
            first_row: part.first_row(),
            weight: weight.clone(),
        };
        let parts = parts.iter().zip(loaded.parts()).map(part).collect();
        Ok(StackedLinear { parts, bias: loaded.bias().cloned() })
    }

    fn tied_head(&self, table: &Table) -> Result<StackedLinear> {
        let part = Part { name: String::new(), first_row: 0, weight: table.weight().clone() };
        Ok(StackedLinear { parts: vec![part], bias: None })
    }

    fn linear(&self, x: &Tensor, linear: &StackedLinear) -> Result<Tensor> {
        let parts = linear.parts.iter().map(|part| self.weight(part));
        let parts = parts.collect::<candle_core::Result<Vec<_>>>().map_err(Error::device)?;
        self.candle.linear(x, &Linear::new(parts, linear.bias.clone()))
    }
}
