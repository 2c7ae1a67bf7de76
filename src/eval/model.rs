//! [`Logits`] of a [`LanguageModel`].

use std::ops::Range;

use super::perplexity::{BlockVisitor, Logits, ScoredSequence};
use crate::engine::LanguageModel;
use crate::error::Result;
use crate::model::Batch;

impl Logits for LanguageModel {
    fn vocabulary(&self) -> usize {
        LanguageModel::vocabulary(self)
    }

    fn logits(&self, sequences: &[ScoredSequence], visit: &mut BlockVisitor) -> Result<()> {
        let tokens: Vec<&[u32]> = sequences.iter().map(|sequence| sequence.tokens.as_slice()).collect();
        let mut rows = Vec::new();
        let mut start = 0;
        for ScoredSequence { tokens, rows: Range { start: from, end } } in sequences {
            rows.extend((start + from..start + end).map(|row| row as u32));
            start += tokens.len();
        }
        LanguageModel::logits(self, &Batch::whole(&tokens), None, &rows, |range, block| {
            visit(range.start, block)
        })
    }
}
