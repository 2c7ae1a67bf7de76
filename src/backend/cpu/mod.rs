//! The CPU backend: packed weights, pooled buffers, f32 activations between operations.
//!
//! Operations run in the rayon pool that they are called in, and give the same bits for any number of threads.

mod attention;
mod bandwidth;
mod buffers;
mod dense;
mod elementwise;
mod experts;
mod functions;
mod inputs;
mod int;
mod key_values;
mod level;
mod linear;
mod logits;
mod norm;
mod packed;
mod pages;
mod rope;
mod simd;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
use crate::error::Result;
use buffers::Pool;
use elementwise::Function;
use level::Level;

pub(crate) use bandwidth::{largest_cache, read_bandwidth};
pub use buffers::Tensor;
pub use key_values::KeyValueCache;
pub(crate) use level::instruction_set;
pub use linear::{Activations, PackedLinear, Scratch};
pub(crate) use logits::{divergence, log_sum_exp};
pub use table::EmbeddingTable;

/// A backend that runs models on the CPU.
pub struct Cpu {
    activations: Activations,
    level: Level,
    pool: Pool,
    /// Bytes of the linear weights loaded so far.
    weights: AtomicUsize,
    /// Scratch buffers of linears: one set for each linear that runs at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

impl Cpu {
    /// Creates a backend with empty pools; `activations` sets the rounding of the inputs of linear layers.
    pub fn new(activations: Activations) -> Self {
        Cpu {
            activations,
            level: Level::detect(),
            weights: AtomicUsize::new(0),
            pool: Pool::new(),
            scratch: Mutex::default(),
        }
    }

    /// Returns the bytes of the loaded linear weights, as packed.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.weights.load(Ordering::Relaxed)
    }

    fn unwritten(&self, rows: usize, cols: usize) -> Tensor {
        Tensor::unwritten(&self.pool, rows, cols)
    }

    fn with_scratch(&self, work: impl FnOnce(&mut Scratch)) {
        let pool = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = pool().pop().unwrap_or_default();
        work(&mut scratch);
        pool().push(scratch);
    }

    fn apply(&self, mut x: Tensor, function: Function) -> Tensor {
        elementwise::apply(self.level, &mut x.data, function);
        x
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Linear = PackedLinear;
    type Table = EmbeddingTable;
    type Norm = NormWeights;
    type KeyValues = KeyValueCache;

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<PackedLinear> {
        let linear = PackedLinear::load(parts, bias, self.activations)?;
        self.weights.fetch_add(linear.bytes(), Ordering::Relaxed);
        Ok(linear)
    }

    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<EmbeddingTable> {
        Ok(EmbeddingTable(rows))
    }

    fn tied_head(&self, table: &EmbeddingTable) -> Result<PackedLinear> {
        self.load_linear(std::slice::from_ref(&table.0), None)
    }

    fn load_norm(&self, norm: NormWeights) -> Result<NormWeights> {
        Ok(norm)
    }

    fn key_values(&self, width: usize, slots: usize) -> Result<KeyValueCache> {
        Ok(KeyValueCache::new(width, slots))
    }

    fn copy_slot(&self, cache: &mut KeyValueCache, from: usize, to: usize, len: usize) -> Result<()> {
        cache.copy(from, to, len);
        Ok(())
    }

    fn rows(&self, x: &Tensor) -> usize {
        x.rows
    }

    fn embed(&self, table: &EmbeddingTable, ids: &[u32]) -> Result<Tensor> {
        let mut out = self.unwritten(ids.len(), table.cols());
        table.look_up(ids, &mut out.data)?;
        Ok(out)
    }

    fn linear(&self, x: &Tensor, linear: &PackedLinear) -> Result<Tensor> {
        let mut out = self.unwritten(x.rows, linear.rows());
        self.with_scratch(|scratch| linear.forward(&x.data, x.rows, scratch, &mut out.data));
        Ok(out)
    }

    fn norm(&self, x: &Tensor, norm: &NormWeights) -> Result<Tensor> {
        let mut out = self.unwritten(x.rows, x.cols);
        norm::normalize(self.level, &x.data, norm, x.cols, &mut out.data);
        Ok(out)
    }

    fn split<const N: usize>(&self, x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
        assert_eq!(widths.iter().sum::<usize>(), x.cols, "split: the widths must add up to the columns");
        let mut offset = 0;
        Ok(widths.map(|width| {
            let mut part = self.unwritten(x.rows, width);
            elementwise::columns(&x.data, x.cols, offset, &mut part.data, width);
            offset += width;
            part
        }))
    }

    fn rope(&self, mut x: Tensor, rotations: &Rotations) -> Result<Tensor> {
        rope::rotate_heads(self.level, &mut x.data, x.cols, rotations);
        Ok(x)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut KeyValueCache>,
    ) -> Result<Tensor> {
        Ok(attention::attend(self.level, &self.pool, q, k, v, spec, spans, cache))
    }

    fn activate(&self, x: Tensor, activation: Activation) -> Result<Tensor> {
        Ok(self.apply(x, Function::Activation(activation)))
    }

    fn gate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let width = x.cols / 2;
        let mut out = self.unwritten(x.rows, width);
        elementwise::gate(self.level, &x.data, activation, width, &mut out.data);
        Ok(out)
    }

    fn add(&self, mut x: Tensor, y: &Tensor) -> Result<Tensor> {
        elementwise::add(&mut x.data, &y.data);
        Ok(x)
    }

    fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor> {
        Ok(self.apply(x, Function::Scale(factor)))
    }

    fn soft_cap(&self, x: Tensor, cap: f32) -> Result<Tensor> {
        Ok(self.apply(x, Function::SoftCap(cap)))
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        Ok(experts::gather(&self.pool, x, rows))
    }

    fn scatter_add(&self, mut x: Tensor, rows: &[u32], y: &Tensor, weights: &Tensor) -> Result<Tensor> {
        experts::scatter_add(&mut x, rows, y, &weights.data);
        Ok(x)
    }

    fn route(&self, logits: &Tensor, routing: Routing) -> Result<Vec<Route<Tensor>>> {
        Ok(experts::route(self.level, &self.pool, logits, routing))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        let mut zeros = self.unwritten(rows, cols);
        zeros.data.fill(0.0);
        Ok(zeros)
    }

    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor> {
        let mut tensor = self.unwritten(rows, cols);
        tensor.data.copy_from_slice(values);
        Ok(tensor)
    }

    fn read<R>(&self, x: &Tensor, look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        Ok(look(&x.data))
    }
}
