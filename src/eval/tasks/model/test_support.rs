//! A runner without a model, a monitor and a tokenizer for the tests.

use std::sync::atomic::AtomicBool;

use super::runner::{Monitor, RowVisitor, Runner};
use crate::engine::Tokenizer;
use crate::error::Result;
use crate::model::Batch;

/// Computes logits by a rule. They depend on all earlier tokens, so that wrong tokens in a slot change them.
pub(crate) struct RuleRunner {
    /// The length of a row.
    pub vocabulary: usize,
    /// The tokens in each slot.
    pub slots: Vec<Vec<u32>>,
}

impl Default for RuleRunner {
    fn default() -> Self {
        RuleRunner { vocabulary: 11, slots: vec![] }
    }
}

impl RuleRunner {
    fn row(&self, tokens: &[u32]) -> Vec<f32> {
        let mixed = tokens.iter().fold(17u32, |mixed, token| mixed.wrapping_mul(31).wrapping_add(token + 1));
        (0..self.vocabulary as u32).map(|i| (mixed.wrapping_mul(i * 2 + 1) >> 16) as f32 / 8192.0).collect()
    }
}

impl Runner for RuleRunner {
    fn make_slots(&mut self, count: usize) -> Result<()> {
        self.slots.resize(self.slots.len().max(count), vec![]);
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.slots[to] = self.slots[from][..len].to_vec();
        Ok(())
    }

    fn logits(&mut self, batch: &Batch, rows: &[u32], visit: &mut RowVisitor) -> Result<()> {
        let mut prefixes = Vec::new();
        let mut tokens = batch.tokens.iter();
        for span in &batch.spans {
            self.slots[span.slot].truncate(span.past);
            assert_eq!(self.slots[span.slot].len(), span.past, "a slot has too few tokens");
            for token in tokens.by_ref().take(span.len) {
                self.slots[span.slot].push(*token);
                prefixes.push(self.slots[span.slot].clone());
            }
        }
        rows.iter().enumerate().try_for_each(|(i, &row)| visit(i, &self.row(&prefixes[row as usize])))
    }
}

pub(crate) fn monitor() -> Monitor<'static> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    Monitor { interrupted: &INTERRUPTED, progress: &|_, _| () }
}

pub(crate) fn tokenizer() -> Tokenizer {
    crate::test_support::tokenizer("tiny-llama")
}
