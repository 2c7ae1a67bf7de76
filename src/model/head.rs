//! The end of a model: the final norm, and the head that makes logits.

use super::block::normed;
use super::description::Model;
use super::embedding::Embedding;
use super::weights::{Loader, Location, Weights};
use crate::backend::Backend;
use crate::error::{Error, Result};

/// The final norm and the head, loaded. Can be loaded and run without the blocks.
pub(crate) struct Head<B: Backend> {
    norm: Option<B::Norm>,
    project_out: Option<B::Linear>,
    head: Option<B::Linear>,
    /// Cap of logits.
    cap: Option<f32>,
    vocabulary: usize,
}

impl<B: Backend> Head<B> {
    /// Loads it alone. `embedding` may be its weight.
    pub(crate) fn load(
        backend: &B,
        model: &Model,
        weights: &dyn Weights,
        embedding: &Embedding<B>,
    ) -> Result<Self> {
        Self::load_with(&model.loader(backend, weights), embedding)
    }

    pub(super) fn load_with(loader: &Loader<B>, embedding: &Embedding<B>) -> Result<Self> {
        let (frame, at) = (loader.frame, Location::default());
        let [vocabulary, width] = loader.embedding_shape()?;
        let project = |[_, name]: [&str; 2]| loader.linear(&[(name, width)], loader.hidden, at);
        Ok(Head {
            norm: frame.final_norm.map(|name| loader.norm(name, at)).transpose()?,
            project_out: frame.embedding.projections.map(project).transpose()?,
            head: loader.head(&embedding.tokens, [vocabulary, width])?,
            cap: frame.logit_cap,
            vocabulary,
        })
    }

    /// Returns the number of logits.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Normalizes the outputs of the last block: [rows, hidden] → [rows, hidden].
    pub(crate) fn norm(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        normed(backend, x, self.norm.as_ref())
    }

    /// Returns logits of normalized states: [rows, hidden] → [rows, vocabulary].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for encoders, which have no head.
    pub(crate) fn logits(&self, backend: &B, hidden: &B::Tensor) -> Result<B::Tensor> {
        let head = self.head.as_ref().ok_or_else(|| {
            Error::unsupported(
                "an encoder has no output head",
                "it gives hidden states and embeddings, not logits",
            )
        })?;
        let narrow = self.project_out.as_ref().map(|linear| backend.linear(hidden, linear)).transpose()?;
        let logits = backend.linear(narrow.as_ref().unwrap_or(hidden), head)?;
        match self.cap {
            Some(cap) => backend.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}
