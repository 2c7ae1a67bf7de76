//! The one forward pass: embedding, blocks, final norm, head, in the operations of a [`Backend`].

use super::batch::Batch;
use super::block::Block;
use super::description::Model;
use super::embedding::Embedding;
use super::head::Head;
use super::state::State;
use super::weights::Weights;
use crate::backend::Backend;
use crate::error::Result;

/// A transformer, loaded into a backend.
pub struct Decoder<B: Backend> {
    backend: B,
    model: Model,
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    head: Head<B>,
}

impl<B: Backend> Decoder<B> {
    /// Loads every weight.
    pub fn load(backend: B, model: Model, weights: &dyn Weights) -> Result<Self> {
        let loader = model.loader(&backend, weights);
        let embedding = Embedding::load_with(&loader)?;
        let head = Head::load_with(&loader, &embedding)?;
        let blocks = model.layers.iter().enumerate();
        let blocks =
            blocks.map(|(index, layer)| Block::load_with(&loader, layer, index)).collect::<Result<_>>()?;
        Ok(Decoder { embedding, blocks, head, model, backend })
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
        self.head.vocabulary()
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
        self.head.norm(&self.backend, x)
    }

    /// Returns logits: [rows, hidden] → [rows, vocabulary].
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for encoders, which have no head.
    pub fn logits(&self, hidden: &B::Tensor) -> Result<B::Tensor> {
        self.head.logits(&self.backend, hidden)
    }
}
