//! The one forward pass: embedding, blocks, final norm, head, in the operations of a [`Backend`].

use super::batch::Batch;
use super::block::{Block, normed};
use super::description::Model;
use super::embedding::Embedding;
use super::state::State;
use super::weights::{Location, Weights};
use crate::backend::Backend;
use crate::error::{Error, Result};

/// A transformer, loaded into a backend.
pub struct Decoder<B: Backend> {
    backend: B,
    model: Model,
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    final_norm: Option<B::Norm>,
    project_out: Option<B::Linear>,
    head: Option<B::Linear>,
    vocabulary: usize,
}

impl<B: Backend> Decoder<B> {
    /// Loads every weight.
    pub fn load(backend: B, model: Model, weights: &dyn Weights) -> Result<Self> {
        let loader = model.loader(&backend, weights);
        let (frame, at) = (&model.frame, Location::default());
        let [vocabulary, width] = loader.embedding_shape()?;
        let embedding = Embedding::load_with(&loader)?;
        let project = |[_, name]: [&str; 2]| loader.linear(&[(name, width)], model.hidden, at);
        let project_out = frame.embedding.projections.map(project).transpose()?;
        let blocks = model.layers.iter().enumerate();
        let blocks =
            blocks.map(|(index, layer)| Block::load_with(&loader, layer, index)).collect::<Result<_>>()?;
        let final_norm = frame.final_norm.map(|name| loader.norm(name, at)).transpose()?;
        let head = loader.head(&embedding.tokens, [vocabulary, width])?;
        Ok(Decoder { embedding, blocks, final_norm, project_out, head, vocabulary, model, backend })
    }

    /// Returns the description that it was loaded by.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the backend that it computes with.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Returns the rows of the token embedding.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns an empty state of so many sequences.
    pub fn state(&self, slots: usize) -> Result<State<B>> {
        State::new(&self.backend, &self.model, slots)
    }

    /// Returns the final hidden states, [tokens, hidden]. With a state, the spans continue what their slots hold.
    pub fn hidden(&self, batch: &Batch, mut state: Option<&mut State<B>>) -> Result<B::Tensor> {
        let rotations = self.model.rotations(&batch.spans);
        let mut x = self.embedding.embed(&self.backend, &self.model, batch)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let layer = state.as_deref_mut().map(|state| &mut state.layers[index]);
            x = block.forward(&self.backend, x, &rotations, &batch.spans, layer)?;
        }
        if let Some(state) = state {
            state.advance(&batch.spans);
        }
        normed(&self.backend, x, self.final_norm.as_ref())
    }

    /// Returns logits: [rows, hidden] → [rows, vocabulary].
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
        match self.model.frame.logit_cap {
            Some(cap) => self.backend.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}
