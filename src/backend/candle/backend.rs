//! The operations of the backend.

use std::sync::Arc;

use candle_core::Tensor;

use super::cache::KeyValues;
use super::machine::Candle;
use super::weights::{self, Linear, Norm, Table};
use super::{attention, cpu_ops, ops};
use crate::backend::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
use crate::error::{Error, Result};

impl Backend for Candle {
    type Tensor = Tensor;
    type Linear = Linear;
    type Table = Table;
    type Norm = Norm;
    type KeyValues = KeyValues;

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let bias = bias.map(|bias| self.load_bias(bias)).transpose()?;
        if let Some(product) = self.load_packed(parts)? {
            return Ok(Linear::packed(product, bias));
        }
        let parts = parts.iter().map(|part| self.load(part.as_ref())).collect::<Result<Vec<Tensor>>>()?;
        parts.iter().for_each(|part| self.count(weights::bytes(part)));
        Ok(Linear::new(parts, bias))
    }

    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<Table> {
        Ok(Table::new(self.load(rows.as_ref())?))
    }

    fn tied_head(&self, table: &Table) -> Result<Linear> {
        self.count(weights::bytes(table.weight()));
        Ok(Linear::new(vec![table.weight().clone()], None))
    }

    fn load_norm(&self, norm: NormWeights) -> Result<Norm> {
        self.norm_weights(norm).map_err(Error::device)
    }

    fn key_values(&self, width: usize, slots: usize) -> Result<KeyValues> {
        Ok(KeyValues::new(width, slots))
    }

    fn copy_slot(&self, cache: &mut KeyValues, from: usize, to: usize, len: usize) -> Result<()> {
        cache.copy_slot(from, to, len).map_err(Error::device)
    }

    fn rows(&self, x: &Tensor) -> usize {
        x.dims()[0]
    }

    fn embed(&self, table: &Table, ids: &[u32]) -> Result<Tensor> {
        let rows = self.rows(table.weight());
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            return Err(Error::unsupported(
                format!("token {id} is not in the embedding table, which has {rows} rows"),
                "check that tokenizer.json and the weights are of the same model",
            ));
        }
        self.gather(table.weight(), ids)
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        if self.fast {
            return cpu_ops::linear(x, linear).map_err(Error::device);
        }
        ops::linear(x, linear).map_err(Error::device)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        match norm.fixed() {
            Some(weights) if self.fast => cpu_ops::norm(x, weights),
            _ => ops::norm(x, norm),
        }
        .map_err(Error::device)
    }

    fn split<const N: usize>(&self, x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
        let parts = ops::split(x, &widths).map_err(Error::device)?;
        Ok(parts.try_into().expect("one part per width"))
    }

    fn rope(&self, x: Tensor, rotations: &Rotations) -> Result<Tensor> {
        if self.fast {
            return cpu_ops::rope(&x, rotations).map_err(Error::device);
        }
        ops::rope(&x, rotations).map_err(Error::device)
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
        if self.fast && cache.is_none() && cpu_ops::covers(spec) {
            return cpu_ops::attention([q, k, v], spec, spans).map_err(Error::device);
        }
        attention::attention([q, k, v], spec, spans, cache).map_err(Error::device)
    }

    fn activate(&self, x: Tensor, activation: Activation) -> Result<Tensor> {
        ops::pointwise(&x, |x| ops::activate(x, activation)).map_err(Error::device)
    }

    fn gate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if self.fast && activation == Activation::Silu {
            return cpu_ops::silu_gate(x).map_err(Error::device);
        }
        ops::gate(x, activation).map_err(Error::device)
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        (x + y).map_err(Error::device)
    }

    fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor> {
        ops::pointwise(&x, |x| x.affine(f64::from(factor), 0.0)).map_err(Error::device)
    }

    fn soft_cap(&self, x: Tensor, cap: f32) -> Result<Tensor> {
        ops::pointwise(&x, |x| ops::soft_cap(x, cap)).map_err(Error::device)
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        ops::gather(x, rows).map_err(Error::device)
    }

    fn scatter_add(&self, x: Tensor, rows: &[u32], y: &Tensor, weights: &Tensor) -> Result<Tensor> {
        ops::scatter_add(&x, rows, y, weights).map_err(Error::device)
    }

    fn route(&self, logits: &Tensor, routing: Routing) -> Result<Vec<Route<Tensor>>> {
        ops::route(logits, routing).map_err(Error::device)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Tensor::zeros((rows, cols), self.dtype, &self.device).map_err(Error::device)
    }

    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor> {
        let tensor = Tensor::from_slice(values, (rows, cols), &self.device);
        tensor.and_then(|tensor| tensor.to_dtype(self.dtype)).map_err(Error::device)
    }

    fn read<R>(&self, x: &Tensor, look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        let values = ops::values(x).map_err(Error::device)?;
        Ok(look(&values))
    }
}
