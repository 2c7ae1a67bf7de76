//! The backend on candle: plain tensor operations, each of which passes gradients on to weights and activations, on the
//! CPU or on a GPU (feature `candle-cuda`; without it the same calls return an error).
//!
//! Weights are dequantized when they are loaded, but for packed integers on a GPU, which llmc's own kernels multiply. Activations are in one of f32, f16 and bf16; what transformers computes
//! in f32 whatever the type (norms, rotations, softmax, the router, activation functions) is computed in f32 here too, and
//! rounded once. Limits: the cache holds values without their history, so no gradient passes through it; second
//! derivatives are not kept (candle detaches them).

mod attention;
mod cache;
mod cpu_ops;
mod ops;
#[cfg(feature = "candle-cuda")]
mod packed;
mod weights;

use candle_core::Tensor;

pub use cache::KeyValues;
pub use weights::{Linear, Norm, Table};

use super::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
use crate::error::{Error, Result};
use crate::tensor::DType;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// The backend: a device, and the type of weights and activations.
#[derive(Debug, Clone)]
pub struct Candle {
    device: candle_core::Device,
    dtype: candle_core::DType,
    trainable: bool,
    /// True if the operations of `cpu_ops` take the place of candle's where they can.
    fast: bool,
    /// Bytes of the linear weights loaded so far.
    weights: Arc<AtomicUsize>,
    /// What multiplies packed weights, on a GPU.
    #[cfg(feature = "candle-cuda")]
    kernels: Option<packed::Kernels>,
}

impl Candle {
    /// A backend on `device` that computes in `dtype`: F32, F16 or BF16.
    ///
    /// # Errors
    /// Another type; no such GPU, or a build without the feature `candle-cuda`.
    pub fn new(device: Device, dtype: DType) -> Result<Self> {
        let device = match device {
            Device::Cpu => candle_core::Device::Cpu,
            // A stream of its own: candle's other one is each thread's, and a model's work would be in no order where threads take turns.
            Device::Cuda(number) => {
                candle_core::Device::new_cuda_with_stream(number).map_err(Error::device)?
            }
        };
        let dtype = match dtype {
            DType::F32 => candle_core::DType::F32,
            DType::F16 => candle_core::DType::F16,
            DType::BF16 => candle_core::DType::BF16,
            other => {
                let what = format!("a model cannot be run in {}", other.name());
                return Err(Error::unsupported(what, "choose F32, F16 or BF16"));
            }
        };
        let fast = device.is_cpu() && dtype == candle_core::DType::F32;
        #[cfg(feature = "candle-cuda")]
        let kernels = match &device {
            candle_core::Device::Cuda(device) => Some(packed::Kernels::new(device)?),
            _ => None,
        };
        Ok(Candle {
            device,
            dtype,
            trainable: false,
            fast,
            weights: Arc::default(),
            #[cfg(feature = "candle-cuda")]
            kernels,
        })
    }

    /// The device of its tensors.
    pub fn device(&self) -> &candle_core::Device {
        &self.device
    }

    /// Bytes of the linear weights that were loaded, as they are held.
    pub fn weight_bytes(&self) -> usize {
        self.weights.load(Ordering::Relaxed)
    }

    /// Chooses among the kernels for packed weights by this table.
    #[cfg(feature = "candle-cuda")]
    pub fn choosing_by(mut self, table: crate::cuda::KernelTable) -> Self {
        self.kernels = self.kernels.map(|kernels| kernels.choosing_by(table));
        self
    }

    fn count(&self, bytes: usize) {
        self.weights.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The product with the parts as they are packed, where there is a kernel for it.
    #[cfg(feature = "candle-cuda")]
    fn load_packed(&self, parts: &[Arc<dyn Matrix>]) -> Result<Option<weights::Product>> {
        let Some(kernels) = self.kernels.as_ref().filter(|_| !self.trainable) else { return Ok(None) };
        let Some(linear) = kernels.load(parts, self.dtype)? else { return Ok(None) };
        self.count(linear.bytes());
        Ok(Some(Arc::new(Box::new(linear))))
    }

    #[cfg(not(feature = "candle-cuda"))]
    fn load_packed(&self, _: &[Arc<dyn Matrix>]) -> Result<Option<weights::Product>> {
        Ok(None)
    }

    /// The same backend with candle's own operations only: the twins of those in `cpu_ops`.
    pub fn plain(self) -> Self {
        Candle { fast: false, ..self }
    }

    /// Whether what is loaded from now on are variables, which gradients are kept for: see [`Linear::parts`],
    /// [`Linear::bias`], [`Table::weight`], [`Norm::weight`] and [`Norm::bias`].
    pub fn trainable(self, trainable: bool) -> Self {
        Candle { trainable, ..self }
    }
}

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

#[cfg(test)]
mod tests;
