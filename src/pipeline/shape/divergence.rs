//! Divergences of rows of logits.

use crate::error::Result;
use crate::eval::softmax::LogSoftmax;
use crate::pipeline::blocks::not_finite;

/// Log-probabilities in the place of logits.
pub(super) fn log_probabilities(mut logits: Vec<f32>, vocabulary: usize) -> Result<Vec<f32>> {
    for row in logits.chunks_mut(vocabulary) {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("the model's logits"))?;
        row.iter_mut().for_each(|logit| *logit = softmax.log_probability(*logit));
    }
    Ok(logits)
}

/// The sum of the divergences of rows of logits from rows of log-probabilities.
pub(super) fn divergence(logits: &[f32], base: &[f32], vocabulary: usize) -> Result<f64> {
    let rows = logits.chunks(vocabulary).zip(base.chunks(vocabulary));
    let each = rows.map(|(row, base)| {
        let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("logits of the smaller model"))?;
        Ok(softmax.divergence(row, base, f32::NEG_INFINITY))
    });
    each.sum()
}
