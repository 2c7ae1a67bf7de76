//! [`LanguageModel`]: a checkpoint loaded for evaluation and generation, on the CPU or, with feature `candle-cuda`, on a GPU.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapted, Adapter};
use super::placed::{Cache, Placed};
use super::weights::Stored;
use crate::backend::candle::{Candle, Device};
use crate::backend::cpu::{Activations, Cpu};
#[cfg(feature = "candle-cuda")]
use crate::cuda::Table;
use crate::error::Result;
use crate::io::Checkpoint;
#[cfg(feature = "candle-cuda")]
use crate::io::cache_folder;
use crate::model::{Batch, Decoder, Model, Weights};
use crate::tensor::DType;

/// How a model is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// How linear layers round their inputs. On a GPU: whether it computes in f32, or in the 16 bits that the model is kept in.
    pub activations: Activations,
    /// The number of the NVIDIA GPU that it runs on; `None` for the CPU.
    pub gpu: Option<usize>,
}

/// A model that runs.
pub struct LanguageModel {
    checkpoint: Arc<Checkpoint>,
    decoder: Box<dyn Placed>,
    weight_bytes: usize,
}

impl LanguageModel {
    /// Loads a checkpoint: every form that llmc reads, compressed weights as they are.
    ///
    /// # Errors
    /// An unknown architecture, a checkpoint without config.json, tensors that are missing or of another shape; a GPU that is not
    /// there, or that this llmc was not built for.
    pub fn open(checkpoint: impl Into<Arc<Checkpoint>>, options: Options) -> Result<LanguageModel> {
        LanguageModel::open_with(checkpoint, None, options)
    }

    /// The same under a LoRA adapter.
    ///
    /// # Errors
    /// Also an adapter that is of another model.
    pub fn open_with(
        checkpoint: impl Into<Arc<Checkpoint>>,
        adapter: Option<Adapter>,
        options: Options,
    ) -> Result<LanguageModel> {
        let checkpoint = checkpoint.into();
        let stored = Stored(Arc::clone(&checkpoint));
        let model = stored.model()?;
        let weights: Box<dyn Weights + Sync> = match adapter {
            Some(adapter) => Box::new(Adapted::new(&checkpoint, adapter)?),
            None => Box::new(stored),
        };
        // Within the pool, so that parallel loops of the load start from a worker.
        let (decoder, weight_bytes) = rayon::scope(|_| place(model, weights.as_ref(), options, &checkpoint))?;
        Ok(LanguageModel { checkpoint, decoder, weight_bytes })
    }

    /// What it was loaded from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns its description.
    pub fn model(&self) -> &Model {
        self.decoder.model()
    }

    /// Rows of the embedding: token ids must be below.
    pub fn vocabulary(&self) -> usize {
        self.decoder.vocabulary()
    }

    /// Bytes of the linear weights, as they are held in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Positions that the model was made for.
    pub fn context_limit(&self) -> Option<usize> {
        self.model().context
    }

    /// An empty cache of so many sequences.
    pub fn cache(&self, slots: usize) -> Result<Cache> {
        self.decoder.cache(slots)
    }

    /// Makes slot `to` of a cache a copy of the first `len` tokens of slot `from`.
    pub fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()> {
        self.decoder.copy(cache, from, to, len)
    }

    /// Runs a batch and shows the logits of some of its rows: `see` gets a range of indices into `rows` and their logits,
    /// [range.len(), vocabulary], a few megabytes at a time.
    pub fn logits(
        &self,
        batch: &Batch,
        cache: Option<&mut Cache>,
        rows: &[u32],
        mut see: impl FnMut(Range<usize>, &[f32]) -> Result<()> + Send,
    ) -> Result<()> {
        rayon::scope(|_| self.decoder.logits(batch, cache, rows, &mut see))
    }

    /// The final hidden states of a batch, [tokens, hidden]: what an encoder gives.
    pub fn hidden(&self, batch: &Batch) -> Result<Vec<f32>> {
        rayon::scope(|_| self.decoder.hidden(batch))
    }
}

/// Loads a decoder where it is to run, and says how many bytes its linear weights take there.
fn place(
    model: Model,
    weights: &dyn Weights,
    options: Options,
    checkpoint: &Checkpoint,
) -> Result<(Box<dyn Placed>, usize)> {
    let Some(number) = options.gpu else {
        let decoder = Decoder::load(Cpu::new(options.activations), model, weights)?;
        let bytes = decoder.backend().weight_bytes();
        return Ok((Box::new(decoder), bytes));
    };
    let dtype = match options.activations {
        Activations::F32 => DType::F32,
        Activations::Auto => half(checkpoint),
    };
    let backend = Candle::new(Device::Cuda(number), dtype)?;
    #[cfg(feature = "candle-cuda")]
    let backend = backend.choosing_by(Table::open(cache_folder().as_deref())?);
    let decoder = Decoder::load(backend, model, weights)?;
    let bytes = decoder.backend().weight_bytes();
    Ok((Box::new(decoder), bytes))
}

/// The 16-bit type that a model was made in; bfloat16, which no value overflows, for those of other types.
fn half(checkpoint: &Checkpoint) -> DType {
    let named = |key| checkpoint.config.as_ref()?.get(key)?.as_str();
    match named("dtype").or_else(|| named("torch_dtype")) {
        Some("float16") => DType::F16,
        _ => DType::BF16,
    }
}
