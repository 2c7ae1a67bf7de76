//! Tokens to run through a model.

use crate::backend::Span;

/// Tokens to run: those of the first span, of the second, and so on.
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
    /// Returns the batch of whole sequences, each in the slot of its number.
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
