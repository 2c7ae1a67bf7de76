//! The backend that training runs a block on: candle's, with the weights of linears put in from outside at each forward
//! pass, and with the operations that take the time written by hand (candle's on the CPU run on one core, each a pass over
//! memory of its own). What they do not cover goes to candle.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::attention::Attend;
use super::gate::SiluGate;
use super::norm::Normalize;
use super::product::Product;
use super::rope::Rotate;
use crate::backend::candle::{Candle, Device, KeyValues, Table};
use crate::backend::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Candle on the CPU in f32, with weights put in the place of those that were loaded.
#[derive(Debug)]
pub(super) struct Replacing {
    candle: Candle,
    /// By the name in the file.
    given: HashMap<String, Tensor>,
}

impl Replacing {
    /// Replaces nothing.
    pub fn nothing() -> Result<Replacing> {
        Ok(Replacing { candle: Candle::new(Device::Cpu, DType::F32)?, given: HashMap::new() })
    }

    /// The same backend with these weights, [rows, cols] as the file has them.
    pub fn with(&self, given: HashMap<String, Tensor>) -> Replacing {
        Replacing { candle: self.candle.clone(), given }
    }
}

/// Linears stacked by rows.
pub(super) struct Linear {
    parts: Vec<Part>,
    bias: Option<Tensor>,
}

/// A linear, or rows of one.
struct Part {
    name: String,
    first_row: usize,
    /// As it was loaded.
    weight: Tensor,
}

impl Replacing {
    fn product(&self, x: &Tensor, linear: &Linear) -> candle_core::Result<Tensor> {
        let part = |part: &Part| match self.given.get(&part.name) {
            Some(given) if given.dims() == part.weight.dims() => Ok(given.clone()),
            Some(given) => given.narrow(0, part.first_row, part.weight.dim(0)?),
            None => Ok(part.weight.clone()),
        };
        let mut parts = linear.parts.iter().map(part).collect::<candle_core::Result<Vec<_>>>()?;
        let weight = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? };
        let y = x.contiguous()?.apply_op2(&weight, Product)?;
        match &linear.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Backend for Replacing {
    type Tensor = Tensor;
    type Linear = Linear;
    type Table = Table;
    type Norm = Arc<NormWeights>;
    type KeyValues = KeyValues;

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let loaded = self.candle.load_linear(parts, bias)?;
        let part = |(part, weight): (&Arc<dyn Matrix>, &Tensor)| Part {
            name: part.name().to_owned(),
            first_row: part.first_row(),
            weight: weight.clone(),
        };
        let parts = parts.iter().zip(loaded.parts()).map(part).collect();
        Ok(Linear { parts, bias: loaded.bias().cloned() })
    }

    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<Table> {
        self.candle.load_table(rows)
    }

    fn tied_head(&self, table: &Table) -> Result<Linear> {
        let part = Part { name: String::new(), first_row: 0, weight: table.weight().clone() };
        Ok(Linear { parts: vec![part], bias: None })
    }

    fn load_norm(&self, norm: NormWeights) -> Result<Arc<NormWeights>> {
        Ok(Arc::new(norm))
    }

    fn key_values(&self, width: usize, slots: usize) -> Result<KeyValues> {
        self.candle.key_values(width, slots)
    }

    fn copy_slot(&self, cache: &mut KeyValues, from: usize, to: usize, len: usize) -> Result<()> {
        self.candle.copy_slot(cache, from, to, len)
    }

    fn rows(&self, x: &Tensor) -> usize {
        self.candle.rows(x)
    }

    fn embed(&self, table: &Table, ids: &[u32]) -> Result<Tensor> {
        self.candle.embed(table, ids)
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.product(x, linear).map_err(Error::device)
    }

    fn norm(&self, x: &Tensor, norm: &Arc<NormWeights>) -> Result<Tensor> {
        let normalize = Normalize(Arc::clone(norm));
        x.contiguous().and_then(|x| x.apply_op1(normalize)).map_err(Error::device)
    }

    fn split<const N: usize>(&self, x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
        self.candle.split(x, widths)
    }

    fn rope(&self, x: Tensor, rotations: &Rotations) -> Result<Tensor> {
        let rotate = Rotate(Arc::new(rotations.clone()));
        x.contiguous().and_then(|x| x.apply_op1(rotate)).map_err(Error::device)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut KeyValues>,
    ) -> Result<Tensor> {
        if cache.is_some() || !Attend::covers(spec) {
            return self.candle.attention(q, k, v, spec, spans, cache);
        }
        let attend = Attend { spec: spec.clone(), spans: spans.to_vec() };
        let result = || q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, attend);
        result().map_err(Error::device)
    }

    fn activate(&self, x: Tensor, activation: Activation) -> Result<Tensor> {
        self.candle.activate(x, activation)
    }

    fn gate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Silu => x.contiguous().and_then(|x| x.apply_op1(SiluGate)).map_err(Error::device),
            _ => self.candle.gate(x, activation),
        }
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        self.candle.add(x, y)
    }

    fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor> {
        self.candle.scale(x, factor)
    }

    fn soft_cap(&self, x: Tensor, cap: f32) -> Result<Tensor> {
        self.candle.soft_cap(x, cap)
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        self.candle.gather(x, rows)
    }

    fn scatter_add(&self, x: Tensor, rows: &[u32], y: &Tensor, weights: &Tensor) -> Result<Tensor> {
        self.candle.scatter_add(x, rows, y, weights)
    }

    fn route(&self, logits: &Tensor, routing: Routing) -> Result<Vec<Route<Tensor>>> {
        self.candle.route(logits, routing)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.candle.zeros(rows, cols)
    }

    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor> {
        self.candle.tensor(rows, cols, values)
    }

    fn read<R>(&self, x: &Tensor, look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        self.candle.read(x, look)
    }
}
