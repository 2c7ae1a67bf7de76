//! The one forward pass: embedding, blocks, final norm, head, in the operations of a [`Backend`].

use super::block::{Block, normed};
use super::cache::Cache;
use super::config::{Config, Positions};
use super::weights::{Loader, Place, Weights};
use crate::backend::{Backend, Rotations, Span};
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

/// What makes the first hidden state of a token.
struct Embedding<B: Backend> {
    tokens: B::Table,
    project_in: Option<B::Linear>,
    positions: Option<B::Table>,
    types: Option<B::Table>,
    norm: Option<B::Norm>,
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
        let place = Place::default();
        let (names, hidden) = (&config.names, config.hidden);
        let [vocabulary, width] = loader.embedding_shape()?;
        let project = |which: usize, [rows, cols]: [usize; 2]| {
            let names = names.projections.as_ref();
            names.map(|names| loader.linear(&[(names[which], rows)], cols, place)).transpose()
        };
        let (project_in, project_out) = (project(0, [hidden, width])?, project(1, [width, hidden])?);
        let table = |name: Option<&str>| name.map(|name| loader.table(name, hidden)).transpose();
        let norm = |name: Option<&str>| name.map(|name| loader.norm(name, place)).transpose();
        let embedding = Embedding {
            tokens: loader.table(names.embedding, width)?,
            project_in,
            positions: table(names.positions)?,
            types: table(names.token_types)?,
            norm: norm(names.embedding_norm)?,
        };
        let blocks =
            (0..config.layers.len()).map(|index| Block::load(&loader, index)).collect::<Result<_>>()?;
        let final_norm = norm(names.final_norm)?;
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
        let rotations = self.rotations(&batch.spans);
        let mut x = self.embed(batch)?;
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

    /// The rotations of a batch, one per kind of layer.
    pub fn rotations(&self, spans: &[Span]) -> Vec<Rotations> {
        match &self.config.positions {
            Positions::Rotary(rotaries) => rotaries.iter().map(|rotary| rotary.rotations(spans)).collect(),
            Positions::Learned { .. } | Positions::Alibi => Vec::new(),
        }
    }

    /// The first hidden states, [tokens, hidden].
    pub fn embed(&self, batch: &Batch) -> Result<B::Tensor> {
        let (backend, embedding) = (&self.backend, &self.embedding);
        let mut x = backend.embed(&embedding.tokens, &batch.tokens)?;
        if let Some(linear) = &embedding.project_in {
            x = backend.linear(&x, linear)?;
        }
        if let Some(factor) = self.config.embedding_scale {
            x = backend.scale(x, factor)?;
        }
        if let Some(table) = &embedding.positions {
            x = backend.add(x, &backend.embed(table, &self.learned_rows(&batch.spans)?)?)?;
        }
        if let Some(table) = &embedding.types {
            let mut types = batch.types.clone();
            types.resize(batch.tokens.len(), 0);
            x = backend.add(x, &backend.embed(table, &types)?)?;
        }
        normed(backend, x, embedding.norm.as_ref())
    }

    /// The rows of the learned positions of a batch.
    fn learned_rows(&self, spans: &[Span]) -> Result<Vec<u32>> {
        let Positions::Learned { offset } = self.config.positions else { return Ok(Vec::new()) };
        let last = spans.iter().map(|span| span.past + span.len).max().unwrap_or(0);
        if let Some(context) = self.config.context.filter(|context| last > *context) {
            let what =
                format!("a sequence of {last} tokens, in a model that has learned {context} positions");
            return Err(Error::usage(what, "shorten the text, or lower --ctx"));
        }
        let positions = spans.iter().flat_map(|span| span.past..span.past + span.len);
        Ok(positions.map(|position| (position + offset) as u32).collect())
    }
}
