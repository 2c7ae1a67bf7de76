//! What makes the first hidden states of tokens: their rows of a table, and what is added to them.

use super::block::normed;
use super::config::{Config, Positions};
use super::decoder::Batch;
use super::weights::{Loader, Place, Weights};
use crate::backend::{Backend, Rotations, Span};
use crate::error::{Error, Result};

/// The tables that tokens are looked up in, loaded. Can be loaded and run without the rest of the model.
pub struct Embedding<B: Backend> {
    pub(super) tokens: B::Table,
    project_in: Option<B::Linear>,
    positions: Option<B::Table>,
    types: Option<B::Table>,
    norm: Option<B::Norm>,
}

impl<B: Backend> Embedding<B> {
    /// Loads the tables alone.
    pub fn load(backend: &B, config: &Config, weights: &dyn Weights) -> Result<Self> {
        Self::load_with(&Loader::new(backend, weights, config))
    }

    pub(super) fn load_with(loader: &Loader<B>) -> Result<Self> {
        let (names, hidden, place) = (&loader.config.names, loader.config.hidden, Place::default());
        let [_, width] = loader.embedding_shape()?;
        let table = |name: Option<&str>| name.map(|name| loader.table(name, hidden)).transpose();
        let project = |names: [&str; 2]| loader.linear(&[(names[0], hidden)], width, place);
        Ok(Embedding {
            tokens: loader.table(names.embedding, width)?,
            project_in: names.projections.map(project).transpose()?,
            positions: table(names.positions)?,
            types: table(names.token_types)?,
            norm: names.embedding_norm.map(|name| loader.norm(name, place)).transpose()?,
        })
    }

    /// The first hidden states, [tokens, hidden].
    pub fn embed(&self, backend: &B, config: &Config, batch: &Batch) -> Result<B::Tensor> {
        let mut x = backend.embed(&self.tokens, &batch.tokens)?;
        if let Some(linear) = &self.project_in {
            x = backend.linear(&x, linear)?;
        }
        if let Some(factor) = config.embedding_scale {
            x = backend.scale(x, factor)?;
        }
        if let Some(table) = &self.positions {
            x = backend.add(x, &backend.embed(table, &config.learned_rows(&batch.spans)?)?)?;
        }
        if let Some(table) = &self.types {
            let mut types = batch.types.clone();
            types.resize(batch.tokens.len(), 0);
            x = backend.add(x, &backend.embed(table, &types)?)?;
        }
        normed(backend, x, self.norm.as_ref())
    }
}

impl Config {
    /// The rotations of a batch, one per kind of layer.
    pub fn rotations(&self, spans: &[Span]) -> Vec<Rotations> {
        match &self.positions {
            Positions::Rotary(rotaries) => rotaries.iter().map(|rotary| rotary.rotations(spans)).collect(),
            Positions::Learned { .. } | Positions::Alibi => Vec::new(),
        }
    }

    /// The rows of the learned positions of a batch.
    fn learned_rows(&self, spans: &[Span]) -> Result<Vec<u32>> {
        let Positions::Learned { offset } = self.positions else { return Ok(Vec::new()) };
        let last = spans.iter().map(|span| span.past + span.len).max().unwrap_or(0);
        if let Some(context) = self.context.filter(|context| last > *context) {
            let what =
                format!("a sequence of {last} tokens, in a model that has learned {context} positions");
            return Err(Error::usage(what, "shorten the text, or lower --ctx"));
        }
        let positions = spans.iter().flat_map(|span| span.past..span.past + span.len);
        Ok(positions.map(|position| (position + offset) as u32).collect())
    }
}
