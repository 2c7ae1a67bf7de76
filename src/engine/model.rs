//! [`LanguageModel`]: a checkpoint loaded for evaluation and generation on the CPU.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapted, Adapter};
use super::weights::Stored;
use crate::backend::Backend;
use crate::backend::cpu::{Activations, Cpu};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{self, Batch, Decoder, Weights};

/// Most bytes of logits that exist at a time.
const LOGIT_BYTES: usize = 16 << 20;

/// How a model is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How linear layers round their inputs.
    pub activations: Activations,
}

/// The keys and values of the sequences that a model is working on.
pub type Cache = model::Cache<Cpu>;

/// A model that runs.
pub struct LanguageModel {
    checkpoint: Arc<Checkpoint>,
    decoder: Decoder<Cpu>,
    vocabulary: usize,
}

impl LanguageModel {
    /// Loads a checkpoint: every form that llmc reads, compressed weights as they are.
    ///
    /// # Errors
    /// An unknown architecture, a checkpoint without config.json, tensors that are missing or of another shape.
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
        let config = stored.config()?;
        let weights: Box<dyn Weights + Sync> = match adapter {
            Some(adapter) => Box::new(Adapted::new(&checkpoint, adapter)?),
            None => Box::new(stored),
        };
        // Within the pool, so that parallel loops of the load start from a worker.
        let decoder =
            rayon::scope(|_| Decoder::load(Cpu::new(options.activations), config, weights.as_ref()))?;
        let vocabulary = decoder.vocabulary();
        Ok(LanguageModel { checkpoint, decoder, vocabulary })
    }

    /// What it was loaded from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The decoder itself.
    pub fn decoder(&self) -> &Decoder<Cpu> {
        &self.decoder
    }

    /// Rows of the embedding: token ids must be below.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Bytes of the linear weights, as they are held in memory.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.backend().weight_bytes()
    }

    /// Positions that the model was made for.
    pub fn context_limit(&self) -> Option<usize> {
        self.decoder.config().context
    }

    /// An empty cache of so many sequences.
    pub fn cache(&self, slots: usize) -> Result<Cache> {
        self.decoder.cache(slots)
    }

    /// Makes slot `to` of a cache a copy of the first `len` tokens of slot `from`.
    pub fn copy(&self, cache: &mut Cache, from: usize, to: usize, len: usize) -> Result<()> {
        cache.copy(self.decoder.backend(), from, to, len)
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
        rayon::scope(|_| {
            let backend = self.decoder.backend();
            let hidden = self.decoder.hidden(batch, cache)?;
            let step = (LOGIT_BYTES / (4 * self.vocabulary)).max(1);
            for start in (0..rows.len()).step_by(step) {
                let range = start..rows.len().min(start + step);
                let logits = self.decoder.logits(&backend.gather(&hidden, &rows[range.clone()])?)?;
                backend.read(&logits, |values| see(range, values))??;
            }
            Ok(())
        })
    }

    /// The final hidden states of a batch, [tokens, hidden]: what an encoder gives.
    pub fn hidden(&self, batch: &Batch) -> Result<Vec<f32>> {
        rayon::scope(|_| {
            let hidden = self.decoder.hidden(batch, None)?;
            self.decoder.backend().read(&hidden, <[f32]>::to_vec)
        })
    }
}
