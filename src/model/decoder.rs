//! The one forward pass: embedding, blocks, final norm, head, in the operations of a [`Backend`].

use super::block::{Block, normed};
use super::cache::Cache;
use super::config::Config;
use super::embedding::Embedding;
use super::weights::{Loader, Place, Weights};
use crate::backend::{Backend, Span};
use crate::error::{Error, Result};

/// A transformer, loaded into a backend.
pub struct Decoder<B: Backend> {
    backend: B,
    config: Config,
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    final_norm: Option<B::Norm>,
    project_out: Option<B::Linear>,
    head: Option<B::Linear>,
    vocabulary: usize,
}

/// Tokens to run: those of each span in turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The sequences that they continue.
    pub spans: Vec<Span>,
    /// Their types, for encoders that tell the halves of a pair apart; empty for zeros.
    pub types: Vec<u32>,
}

impl Batch {
    /// Whole sequences, each in the slot of its number.
    pub fn whole<S: AsRef<[u32]>>(sequences: &[S]) -> Batch {
        let mut batch = Batch::default();
        for (slot, sequence) in sequences.iter().enumerate() {
            batch.push(slot, 0, sequence.as_ref());
        }
        batch
    }

    /// Adds tokens that continue the sequence in `slot` at position `past`.
    pub fn push(&mut self, slot: usize, past: usize, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.spans.push(Span { slot, past, len: tokens.len() });
    }
}

impl<B: Backend> Decoder<B> {
    /// Loads every weight.
    pub fn load(backend: B, config: Config, weights: &dyn Weights) -> Result<Self> {
        let loader = Loader::new(&backend, weights, &config);
        let [vocabulary, width] = loader.embedding_shape()?;
        let embedding = Embedding::load_with(&loader)?;
        let place = Place::default();
        let project = |names: [&str; 2]| loader.linear(&[(names[1], width)], config.hidden, place);
        let project_out = config.names.projections.map(project).transpose()?;
        let blocks =
            (0..config.layers.len()).map(|index| Block::load_with(&loader, index)).collect::<Result<_>>()?;
        let final_norm = config.names.final_norm.map(|name| loader.norm(name, place)).transpose()?;
        let head = loader.head(&embedding.tokens, [vocabulary, width])?;
        Ok(Decoder { embedding, blocks, final_norm, project_out, head, vocabulary, config, backend })
    }

    /// What it was configured as.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it computes with.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Rows of the token embedding.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// An empty cache of so many sequences.
    pub fn cache(&self, slots: usize) -> Result<Cache<B>> {
        Cache::new(&self.backend, &self.config, slots)
    }

    /// The final hidden states, [tokens, hidden]. With a cache, the spans continue what their slots hold.
    pub fn hidden(&self, batch: &Batch, mut cache: Option<&mut Cache<B>>) -> Result<B::Tensor> {
        let rotations = self.config.rotations(&batch.spans);
        let mut x = self.embedding.embed(&self.backend, &self.config, batch)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let layer = cache.as_deref_mut().map(|cache| &mut cache.layers[index]);
            x = block.forward(&self.backend, x, &rotations, &batch.spans, layer)?;
        }
        if let Some(cache) = cache {
            cache.advance(&batch.spans);
        }
        normed(&self.backend, x, self.final_norm.as_ref())
    }

    /// [rows, hidden] → [rows, vocabulary].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for encoders, which have no head.
    pub fn logits(&self, hidden: &B::Tensor) -> Result<B::Tensor> {
        let head = self.head.as_ref().ok_or_else(|| {
            Error::unsupported(
                "an encoder has no output head",
                "it gives hidden states and embeddings, not logits",
            )
        })?;
        let narrow =
            self.project_out.as_ref().map(|linear| self.backend.linear(hidden, linear)).transpose()?;
        let logits = self.backend.linear(narrow.as_ref().unwrap_or(hidden), head)?;
        match self.config.logit_cap {
            Some(cap) => self.backend.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}
