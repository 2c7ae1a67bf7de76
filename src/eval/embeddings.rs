//! Mean-pooled sentence embeddings of encoders, and their agreement between a compressed model and the original.
//!
//! The embedding of a text is the mean of its tokens' final hidden states (Reimers & Gurevych, 2019,
//! <https://arxiv.org/abs/1908.10084>), scaled to length 1.

use crate::engine::{LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::model::Batch;

/// The limit on the tokens of a batch.
const BATCH_TOKENS: usize = 2048;

/// Embeddings of texts, row-major [texts, width].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embeddings {
    /// The length of an embedding.
    pub width: usize,
    /// The values.
    pub values: Vec<f32>,
}

/// The agreement of two models' embeddings of the same texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agreement {
    /// The cosine of the two embeddings of each text.
    pub cosines: Vec<f32>,
    /// The share of texts that have the same nearest other text under both models.
    pub same_nearest: f64,
}

impl Embeddings {
    /// Embeds texts, each cut at the model's limit. Calls `progress` with the number of finished texts.
    pub(crate) fn of(
        model: &LanguageModel,
        tokenizer: &Tokenizer,
        texts: &[&str],
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Embeddings> {
        let limit = model.context_limit().unwrap_or(usize::MAX);
        let sequences: Result<Vec<Vec<u32>>> =
            texts.iter().map(|text| Ok(cut(tokenizer.encode(text, true)?, limit))).collect();
        let width = model.model().hidden;
        let mut embeddings = Embeddings { width, values: Vec::new() };
        let mut finished = 0;
        for batch in batches(&sequences?) {
            let hidden = model.hidden(&Batch::whole(batch))?;
            if hidden.iter().any(|value| !value.is_finite()) {
                let what = "a hidden state is not finite";
                return Err(Error::unsupported(
                    what,
                    "the weights are damaged: check them with `llmc verify`",
                ));
            }
            embeddings.append(&hidden, batch);
            finished += batch.len();
            progress(finished)?;
        }
        Ok(embeddings)
    }

    /// The embeddings, one row per text.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// Appends the embeddings of sequences, given their concatenated hidden states.
    fn append(&mut self, mut hidden: &[f32], sequences: &[Vec<u32>]) {
        for sequence in sequences {
            let (own, rest) = hidden.split_at(sequence.len() * self.width);
            let start = self.values.len();
            self.values.resize(start + self.width, 0.0);
            let mean = &mut self.values[start..];
            for row in own.chunks_exact(self.width) {
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let length = dot(mean, mean).sqrt().max(f32::MIN_POSITIVE);
            mean.iter_mut().for_each(|value| *value /= length);
            hidden = rest;
        }
    }

    /// Compares with another model's embeddings of the same texts.
    pub(crate) fn agreement(&self, base: &Embeddings) -> Agreement {
        let cosines = self.rows().zip(base.rows()).map(|(ours, theirs)| dot(ours, theirs)).collect();
        let nearest = self.nearest();
        let same = nearest.iter().zip(&base.nearest()).filter(|(a, b)| a == b).count();
        Agreement { cosines, same_nearest: same as f64 / nearest.len().max(1) as f64 }
    }

    /// The nearest other text of each text.
    fn nearest(&self) -> Vec<Option<usize>> {
        self.rows().enumerate().map(|(text, own)| self.nearest_to(text, own)).collect()
    }

    fn nearest_to(&self, text: usize, own: &[f32]) -> Option<usize> {
        let others = self.rows().enumerate().filter(|(other, _)| *other != text);
        let cosines = others.map(|(other, row)| (other, dot(own, row)));
        cosines.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(other, _)| other)
    }
}

/// Cuts a text to `limit` tokens: its first ones, and its last one, which ends every text.
fn cut(mut tokens: Vec<u32>, limit: usize) -> Vec<u32> {
    if tokens.len() > limit {
        tokens.drain(limit.saturating_sub(1)..tokens.len() - 1);
    }
    tokens
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Splits sequences into batches of at most [`BATCH_TOKENS`]. A longer sequence is a batch of its own.
fn batches(sequences: &[Vec<u32>]) -> impl Iterator<Item = &[Vec<u32>]> {
    let mut rest = sequences;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |sequence: &&Vec<u32>| {
            tokens += sequence.len();
            tokens <= BATCH_TOKENS
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[[f32; 2]]) -> Embeddings {
        Embeddings { width: 2, values: rows.concat() }
    }

    #[test]
    fn pooling_is_the_mean_scaled_to_length_one() {
        let mut embeddings = of(&[]);
        // Two tokens (3, 0) and (3, 8): the mean (3, 4) has length 5.
        embeddings.append(&[3.0, 0.0, 3.0, 8.0, 0.0, -2.0], &[vec![7, 8], vec![9]]);
        assert_eq!(embeddings, of(&[[0.6, 0.8], [0.0, -1.0]]));
    }

    #[test]
    fn agreement_is_cosines_and_nearest_texts() {
        let base = of(&[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]);
        assert_eq!(base.nearest(), [Some(1), Some(0), Some(1)]);
        let other = of(&[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]);
        let agreement = other.agreement(&base);
        // The second text moved towards the third: 0.8·0.6 + 0.6·0.8.
        assert!((agreement.cosines[1] - 0.96).abs() < 1e-6 && agreement.cosines[0] == 1.0);
        assert_eq!(agreement.same_nearest, 2.0 / 3.0);
    }

    #[test]
    fn batches_keep_order_and_the_budget() {
        let sequences: Vec<Vec<u32>> = [1000, 1000, 100, 5000, 3].map(|len| vec![0; len]).to_vec();
        let lengths: Vec<Vec<usize>> =
            batches(&sequences).map(|b| b.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![1000, 1000], vec![100], vec![5000], vec![3]]);
        assert_eq!(batches(&[]).count(), 0);
    }
}
