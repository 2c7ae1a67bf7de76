//! The calibration set in batches of whole sequences, and the hidden states around a block.

use std::ops::Range;

use super::chain::Chain;
use crate::backend::{Backend, Span};
use crate::calib::trainable::Activations;
use crate::error::Result;
use crate::model::{Batch, Embedding, Model};

/// Tokens that are run together: few enough for the caches, and independent of the number of threads, so that the order of
/// sums is too.
pub(crate) const BATCH_TOKENS: usize = 4096;

/// The calibration set, in batches of whole sequences.
pub(crate) struct Batches<'a> {
    sequences: &'a [Vec<u32>],
    batches: Vec<Range<usize>>,
    /// The first token of each sequence, and the end.
    starts: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Batches of consecutive sequences, up to [`BATCH_TOKENS`] tokens each.
    pub(crate) fn new(sequences: &'a [Vec<u32>]) -> Self {
        let mut starts = vec![0];
        let mut batches: Vec<Range<usize>> = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let end = starts[index] + sequence.len();
            starts.push(end);
            match batches.last_mut() {
                Some(last) if end - starts[last.start] <= BATCH_TOKENS => last.end = index + 1,
                _ => batches.push(index..index + 1),
            }
        }
        Batches { sequences, batches, starts }
    }

    /// The batches, each as a range of sequences.
    pub(crate) fn all(&self) -> &[Range<usize>] {
        &self.batches
    }

    /// The number of tokens of all sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.starts[self.sequences.len()]
    }

    /// The tokens of a batch, as a range of all tokens.
    pub(crate) fn range(&self, batch: &Range<usize>) -> Range<usize> {
        self.starts[batch.start]..self.starts[batch.end]
    }

    /// The tokens of a sequence, as a range of all tokens.
    pub(crate) fn of_sequence(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }

    /// The spans of a batch, each sequence in a slot of its own.
    pub(crate) fn spans(&self, batch: &Range<usize>) -> Vec<Span> {
        let span = |(slot, sequence): (usize, &Vec<u32>)| Span { slot, past: 0, len: sequence.len() };
        self.sequences[batch.clone()].iter().enumerate().map(span).collect()
    }

    /// The states of each sequence before a block, and the outputs of the uncompressed block.
    pub(crate) fn between(&self, input: &Chain, target: &Chain) -> States {
        States { starts: self.starts.clone(), input: input.clone(), target: target.clone() }
    }

    /// Writes the first hidden states to each of the chains.
    pub(crate) fn embed<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        embedding: &Embedding<B>,
        chains: &[Chain],
    ) -> Result<()> {
        self.batches.iter().try_for_each(|batch| {
            let tokens = Batch::whole(&self.sequences[batch.clone()]);
            let x = embedding.embed(backend, model, &tokens)?;
            let write =
                |values: &[f32]| chains.iter().try_for_each(|chain| chain.write(&self.range(batch), values));
            backend.read(&x, write)?
        })
    }
}

/// The hidden states around a block, sequence by sequence.
pub(crate) struct States {
    starts: Vec<usize>,
    input: Chain,
    target: Chain,
}

impl States {
    fn tokens(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }
}

impl Activations for States {
    fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    fn input(&self, sequence: usize) -> Result<Vec<f32>> {
        self.input.read(&self.tokens(sequence))
    }

    fn target(&self, sequence: usize) -> Result<Vec<f32>> {
        self.target.read(&self.tokens(sequence))
    }
}
