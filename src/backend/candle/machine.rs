//! The device, the type, and the options of the backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "candle-cuda")]
use super::packed;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The device of the tensors.
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
    pub(super) device: candle_core::Device,
    pub(super) dtype: candle_core::DType,
    pub(super) trainable: bool,
    /// True if the operations of `cpu_ops` take the place of candle's where they can.
    pub(super) fast: bool,
    /// Bytes of the linear weights loaded so far.
    weights: Arc<AtomicUsize>,
    /// The kernels for packed weights, on a GPU.
    #[cfg(feature = "candle-cuda")]
    pub(super) kernels: Option<packed::Kernels>,
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
    pub(crate) fn device(&self) -> &candle_core::Device {
        &self.device
    }

    /// Bytes of the linear weights that were loaded, as they are held.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.weights.load(Ordering::Relaxed)
    }

    /// Chooses among the kernels for packed weights by this table.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn choosing_by(mut self, table: crate::cuda::KernelTable) -> Self {
        self.kernels = self.kernels.map(|kernels| kernels.choosing_by(table));
        self
    }

    /// Counts bytes of linear weights.
    pub(super) fn count(&self, bytes: usize) {
        self.weights.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The same backend with candle's own operations only: the twins of those in `cpu_ops`.
    pub(crate) fn plain(self) -> Self {
        Candle { fast: false, ..self }
    }

    /// The same backend, whose weights loaded from now on are variables with gradients: see [`Linear::parts`](super::Linear::parts),
    /// [`Linear::bias`](super::Linear::bias), [`Table::weight`](super::Table::weight), [`Norm::weight`](super::Norm::weight) and
    /// [`Norm::bias`](super::Norm::bias).
    pub fn trainable(self, trainable: bool) -> Self {
        Candle { trainable, ..self }
    }
}
