//! The first hidden states of tokens: their rows of a table, and what is added to them.

use super::batch::Batch;
use super::block::normed;
use super::description::Model;
use super::frame::LearnedPositions;
use super::weights::{Loader, Location, Weights};
use crate::backend::{Backend, Span};
use crate::error::{Error, Result};

/// The tables that tokens are looked up in, loaded. Can be loaded and run without the rest of the model.
pub(crate) struct Embedding<B: Backend> {
    pub(super) tokens: B::Table,
    project_in: Option<B::Linear>,
    positions: Option<B::Table>,
    types: Option<B::Table>,
    norm: Option<B::Norm>,
}

impl<B: Backend> Embedding<B> {
    /// Loads the tables alone.
    pub(crate) fn load(backend: &B, model: &Model, weights: &dyn Weights) -> Result<Self> {
        Self::load_with(&model.loader(backend, weights))
    }

    pub(super) fn load_with(loader: &Loader<B>) -> Result<Self> {
        let (names, hidden, at) = (loader.frame.embedding, loader.hidden, Location::default());
        let [_, width] = loader.embedding_shape()?;
        let table = |name: Option<&str>| name.map(|name| loader.table(name, hidden)).transpose();
        let project = |[name, _]: [&str; 2]| loader.linear(&[(name, hidden)], width, at);
        Ok(Embedding {
            tokens: loader.table(names.tokens, width)?,
            project_in: names.projections.map(project).transpose()?,
            positions: table(names.positions.map(|positions| positions.name))?,
            types: table(names.types)?,
            norm: names.norm.map(|name| loader.norm(name, at)).transpose()?,
        })
    }

    /// Returns the first hidden states, [tokens, hidden].
    pub(crate) fn embed(&self, backend: &B, model: &Model, batch: &Batch) -> Result<B::Tensor> {
        let mut x = backend.embed(&self.tokens, &batch.tokens)?;
        if let Some(linear) = &self.project_in {
            x = backend.linear(&x, linear)?;
        }
        if let Some(factor) = model.frame.embedding.scale {
            x = backend.scale(x, factor)?;
        }
        if let Some((table, positions)) = self.positions.as_ref().zip(model.frame.embedding.positions) {
            let rows = position_rows(positions, model.context, &batch.spans)?;
            x = backend.add(x, &backend.embed(table, &rows)?)?;
        }
        if let Some(table) = &self.types {
            let mut types = batch.types.clone();
            types.resize(batch.tokens.len(), 0);
            x = backend.add(x, &backend.embed(table, &types)?)?;
        }
        normed(backend, x, self.norm.as_ref())
    }
}

/// Returns the rows of the learned positions of a batch.
fn position_rows(positions: LearnedPositions, context: Option<usize>, spans: &[Span]) -> Result<Vec<u32>> {
    let last = spans.iter().map(|span| span.past + span.len).max().unwrap_or(0);
    if let Some(context) = context.filter(|context| last > *context) {
        let what = format!("a sequence of {last} tokens, in a model that has learned {context} positions");
        return Err(Error::usage(what, "shorten the text, or lower --ctx"));
    }
    let all = spans.iter().flat_map(|span| span.past..span.past + span.len);
    Ok(all.map(|position| (position + positions.offset) as u32).collect())
}
