//! The distance of predictions from those of the whole model.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Backend;
use crate::error::Result;
use crate::eval::softmax::LogSoftmax;
use crate::model::Head;
use crate::pipeline::blocks::not_finite;
use crate::pipeline::options::interrupted;

/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 256;

/// Reads the states of some tokens.
type Read<'a> = dyn Fn(&Range<usize>) -> Result<Vec<f32>> + 'a;

/// The end of a model that has run: its head, and the outputs of its last block.
pub(super) struct Predictions<'a, B: Backend> {
    pub backend: &'a B,
    pub head: &'a Head<B>,
    /// Reads the outputs of some tokens, [tokens, hidden].
    pub states: Box<Read<'a>>,
}

impl<B: Backend> Predictions<'_, B> {
    fn logits(&self, tokens: &Range<usize>) -> Result<Vec<f32>> {
        let values = (self.states)(tokens)?;
        let x = self.backend.tensor(tokens.len(), values.len() / tokens.len().max(1), &values)?;
        let logits = self.head.logits(self.backend, &self.head.norm(self.backend, x)?)?;
        self.backend.read(&logits, <[f32]>::to_vec)
    }
}

/// The mean KL divergence, over so many tokens, of the predictions of each of `others` from those of `whole`.
///
/// # Errors
/// A model without a head; logits that are not finite; an interruption.
pub(super) fn divergences<B: Backend>(
    whole: &Predictions<B>,
    others: &[Predictions<B>],
    tokens: usize,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let (mut sums, vocabulary) = (vec![0.0; others.len()], whole.head.vocabulary());
    for first in (0..tokens).step_by(CHUNK) {
        if stop.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        let chunk = first..(first + CHUNK).min(tokens);
        let base = log_probabilities(whole.logits(&chunk)?, vocabulary)?;
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum += divergence(&other.logits(&chunk)?, &base, vocabulary)?;
        }
    }
    Ok(sums.into_iter().map(|sum| sum / tokens.max(1) as f64).collect())
}

/// Log-probabilities in the place of logits.
fn log_probabilities(mut logits: Vec<f32>, vocabulary: usize) -> Result<Vec<f32>> {
    for row in logits.chunks_mut(vocabulary) {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("the model's logits"))?;
        row.iter_mut().for_each(|logit| *logit = softmax.log_probability(*logit));
    }
    Ok(logits)
}

/// The sum of the divergences of rows of logits from rows of log-probabilities.
fn divergence(logits: &[f32], base: &[f32], vocabulary: usize) -> Result<f64> {
    let rows = logits.chunks(vocabulary).zip(base.chunks(vocabulary));
    let each = rows.map(|(row, base)| {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("logits of the smaller model"))?;
        Ok(softmax.divergence(row, base, f32::NEG_INFINITY))
    });
    each.sum()
}
