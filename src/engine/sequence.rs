//! One sequence of a model, for generation.

use super::any_decoder::Cache;
use super::model::LanguageModel;
use crate::error::Result;
use crate::model::Batch;

/// Prompt tokens in one pass: enough to use all cores, few enough to need little memory.
const PREFILL: usize = 512;

/// One sequence of a model, with its cache.
pub struct Sequence<'a> {
    model: &'a LanguageModel,
    cache: Cache,
}

impl<'a> Sequence<'a> {
    /// Creates an empty sequence.
    pub fn new(model: &'a LanguageModel) -> Result<Sequence<'a>> {
        Ok(Sequence { cache: model.cache(1)?, model })
    }

    /// The number of its tokens.
    pub(crate) fn len(&self) -> usize {
        self.cache.len(0)
    }

    /// Appends tokens and returns the logits after the last one, \[vocabulary\].
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        let mut chunks = tokens.chunks(PREFILL).peekable();
        while let Some(chunk) = chunks.next() {
            let mut batch = Batch::default();
            batch.push(0, self.cache.len(0), chunk);
            let last = chunk.len() as u32 - 1;
            let rows = if chunks.peek().is_some() { &[][..] } else { &[last] };
            self.model.logits(&batch, Some(&mut self.cache), rows, |_, values| {
                logits.extend_from_slice(values);
                Ok(())
            })?;
        }
        Ok(logits)
    }
}
