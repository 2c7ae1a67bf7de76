//! [`LanguageModel`]: a checkpoint loaded for evaluation and generation, on the CPU or, with feature `candle-cuda`, on a GPU.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{AdaptedWeights, Adapter};
use super::any_decoder::{AnyDecoder, Cache};
use super::weights::CheckpointWeights;
use crate::backend::Device;
use crate::backend::candle::{self, Candle};
use crate::backend::cpu::{Activations, Cpu};
#[cfg(feature = "candle-cuda")]
use crate::cuda::KernelTable;
use crate::error::Result;
use crate::io::Checkpoint;
#[cfg(feature = "candle-cuda")]
use crate::io::cache_folder;
use crate::model::{Batch, Decoder, Model, Weights};
use crate::tensor::DType;

/// The device and precision to run a model with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The rounding of the inputs of linear layers. On a GPU: f32, or the model's own 16-bit type.
    pub activations: Activations,
    /// The device.
    pub device: Device,
}

/// A loaded model.
pub struct LanguageModel {
    checkpoint: Arc<Checkpoint>,
    decoder: Box<dyn AnyDecoder>,
    weight_bytes: usize,
}

impl LanguageModel {
    /// Loads a checkpoint in any form that llmc reads. Compressed weights stay compressed.
    ///
    /// # Errors
    /// An unknown architecture, a checkpoint without config.json, a missing tensor or one of another shape, a missing GPU, a
    /// build without GPU support.
    pub fn open(checkpoint: impl Into<Arc<Checkpoint>>, options: Options) -> Result<LanguageModel> {
        LanguageModel::open_with(checkpoint, None, options)
    }

    /// Loads a checkpoint, with a LoRA adapter if there is one.
    ///
    /// # Errors
    /// Those of [`LanguageModel::open`], and an adapter of another model.
    pub fn open_with(
        checkpoint: impl Into<Arc<Checkpoint>>,
        adapter: Option<Adapter>,
        options: Options,
    ) -> Result<LanguageModel> {
        let checkpoint = checkpoint.into();
        let stored = CheckpointWeights(Arc::clone(&checkpoint));
        let model = stored.model()?;
        let weights: Box<dyn Weights + Sync> = match adapter {
            Some(adapter) => Box::new(AdaptedWeights::new(&checkpoint, adapter)?),
            None => Box::new(stored),
        };
        // In the pool: parallel loops of the load must start from a worker.
        let loaded = rayon::scope(|_| load(model, weights.as_ref(), options, &checkpoint));
        let (decoder, weight_bytes) = loaded.map_err(|error| error.in_checkpoint(&checkpoint.path))?;
        Ok(LanguageModel { checkpoint, decoder, weight_bytes })
    }

    /// The checkpoint of the model.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The model's description.
    pub fn model(&self) -> &Model {
        self.decoder.model()
    }

    /// The number of embedding rows. Token ids must be smaller.
    pub fn vocabulary(&self) -> usize {
        self.decoder.vocabulary()
    }

    /// The bytes of the linear weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// The number of positions that the model supports.
    pub fn context_limit(&self) -> Option<usize> {
        self.model().context
    }

    /// Creates an empty cache of `slots` sequences.
    pub fn cache(&self, slots: usize) -> Result<Cache> {
        self.decoder.cache(slots)
    }

    /// Makes slot `to` of a cache a copy of the first `len` tokens of slot `from`.
    pub fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()> {
        self.decoder.copy(cache, from, to, len)
    }

    /// Runs a batch and passes the logits of `rows` to `visit`: a range of indices into `rows` and their logits,
    /// [range.len(), vocabulary], a few megabytes at a time.
    pub fn logits(
        &self,
        batch: &Batch,
        cache: Option<&mut Cache>,
        rows: &[u32],
        mut visit: impl FnMut(Range<usize>, &[f32]) -> Result<()> + Send,
    ) -> Result<()> {
        rayon::scope(|_| self.decoder.logits(batch, cache, rows, &mut visit))
    }

    /// The final hidden states of a batch, [tokens, hidden]: the output of an encoder.
    pub fn hidden(&self, batch: &Batch) -> Result<Vec<f32>> {
        rayon::scope(|_| self.decoder.hidden(batch))
    }
}

/// Loads a decoder on its device. Returns it with the bytes of its linear weights.
fn load(
    model: Model,
    weights: &dyn Weights,
    options: Options,
    checkpoint: &Checkpoint,
) -> Result<(Box<dyn AnyDecoder>, usize)> {
    let backend = match options.device {
        Device::Cpu => {
            let decoder = Decoder::load(Cpu::new(options.activations), model, weights)?;
            let bytes = decoder.backend().weight_bytes();
            return Ok((Box::new(decoder), bytes));
        }
        Device::Candle => Candle::new(candle::Device::Cpu, DType::F32)?.plain(), // `cpu_ops` copies a linear's parts at each call
        Device::Cuda(number) => {
            let dtype = match options.activations {
                Activations::F32 => DType::F32,
                Activations::Auto => half(checkpoint),
            };
            Candle::new(candle::Device::Cuda(number), dtype)?
        }
    };
    #[cfg(feature = "candle-cuda")]
    let backend = backend.choosing_by(KernelTable::open(cache_folder().as_deref())?);
    let decoder = Decoder::load(backend, model, weights)?;
    let bytes = decoder.backend().weight_bytes();
    Ok((Box::new(decoder), bytes))
}

/// The 16-bit type of the model; bfloat16 for models of other types, because no f32 value overflows it.
fn half(checkpoint: &Checkpoint) -> DType {
    let named = |key| checkpoint.config.as_ref()?.get(key)?.as_str();
    match named("dtype").or_else(|| named("torch_dtype")) {
        Some("float16") => DType::F16,
        _ => DType::BF16,
    }
}
