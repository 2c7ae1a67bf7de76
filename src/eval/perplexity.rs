//! Scores a text, a few windows at a time: compares the model's logits with the tokens of the text and, optionally, with a
//! base's log-probabilities. Keeps the rows of one forward pass at most; those of the base are encoded.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::base::{BaseReader, BaseWriter, EncodedRows, Precision};
use super::softmax::{LogSoftmax, NOT_FINITE};
use super::summary::{BaseScore, Score};
use super::windows::Window;
use crate::engine::tokenizer::WRONG_TOKENIZER;
use crate::error::{Error, Result};

/// A callback that gets a block of logits: the index of its first row among all requested rows, and [rows, vocabulary] values.
pub(crate) type BlockVisitor<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + Send + 'a;

/// A model that computes logits.
pub(crate) trait Logits: Sync {
    /// The length of a row of logits.
    fn vocabulary(&self) -> usize;
    /// Runs sequences together and passes their requested rows to `visit`, in order, in blocks of whole rows.
    fn logits(&self, sequences: &[ScoredSequence], visit: &mut BlockVisitor) -> Result<()>;
}

impl<T: Logits + ?Sized> Logits for &T {
    fn vocabulary(&self) -> usize {
        (**self).vocabulary()
    }

    fn logits(&self, sequences: &[ScoredSequence], visit: &mut BlockVisitor) -> Result<()> {
        (**self).logits(sequences, visit)
    }
}

/// Tokens to run from an empty context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScoredSequence {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The rows of logits to return.
    pub rows: Range<usize>,
}

/// A text and its windows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowedText<'a> {
    /// The tokens of the whole text.
    pub tokens: &'a [u32],
    /// The windows, with their targets.
    pub windows: &'a [Window],
    /// The replacement of each window's first token.
    pub first: Option<u32>,
    /// The number of windows to run together.
    pub batch: usize,
}

impl WindowedText<'_> {
    /// The number of scored tokens.
    pub(crate) fn targets(&self) -> usize {
        self.windows.iter().map(|window| window.targets.len()).sum()
    }

    fn sequence(&self, window: &Window) -> ScoredSequence {
        let mut tokens = self.tokens[window.tokens.clone()].to_vec();
        if let (Some(first), Some(token)) = (self.first, tokens.first_mut()) {
            *token = first;
        }
        ScoredSequence { tokens, rows: window.rows() }
    }

    /// Refuses tokens beyond the model's vocabulary.
    fn check(&self, vocabulary: usize) -> Result<()> {
        let largest = self.tokens.iter().copied().chain(self.first).max().unwrap_or(0);
        if (largest as usize) < vocabulary {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("the text contains token {largest}, but the model's vocabulary has {vocabulary} tokens"),
            WRONG_TOKENIZER,
        ))
    }
}

/// The source of the base's log-probabilities.
pub(crate) enum BaseSource<'a> {
    /// The file of an earlier run.
    File(BaseReader, Precision),
    /// The base model, run beside the model. Its log-probabilities are kept for the next comparison.
    Model {
        /// The base.
        model: Box<dyn Logits + 'a>,
        /// The encoding of its rows. It is that of the file, so that both sources give the same figures.
        precision: Precision,
        /// The writer of the file.
        writer: Option<BaseWriter>,
    },
}

impl BaseSource<'_> {
    fn precision(&self) -> Precision {
        match self {
            BaseSource::File(_, precision) | BaseSource::Model { precision, .. } => *precision,
        }
    }

    /// Fills `rows` with the rows of a group of windows; `first` is the index of its first window.
    fn rows(
        &mut self,
        first: usize,
        sequences: &[ScoredSequence],
        rows: &mut EncodedRows,
        stop: &AtomicBool,
    ) -> Result<()> {
        rows.clear();
        match self {
            BaseSource::File(reader, _) => {
                (first..first + sequences.len()).try_for_each(|window| reader.window(window, rows))
            }
            BaseSource::Model { model, precision, writer } => {
                let vocabulary = model.vocabulary();
                model.logits(sequences, &mut |row, block| {
                    check_running(stop)?;
                    rows.push(*precision, block, vocabulary).map_err(|bad| not_finite("base", row + bad))
                })?;
                write_rows(writer, sequences, rows);
                Ok(())
            }
        }
    }

    /// Completes the file, if one was written, and returns its path.
    pub(crate) fn finish(self) -> Option<PathBuf> {
        let BaseSource::Model { writer: Some(writer), .. } = self else { return None };
        writer.finish().inspect_err(warn_not_kept).ok()
    }
}

/// Writes the rows of a group to the file. An error (a full disk) ends the file, but not the evaluation.
fn write_rows(writer: &mut Option<BaseWriter>, sequences: &[ScoredSequence], rows: &EncodedRows) {
    let Some(open) = writer else { return };
    let mut start = 0;
    let written = sequences.iter().try_for_each(|sequence| {
        let range = start..start + sequence.rows.len();
        start = range.end;
        open.push(rows, range)
    });
    if let Err(error) = written {
        warn_not_kept(&error);
        *writer = None;
    }
}

fn warn_not_kept(error: &Error) {
    tracing::warn!("the base's log-probabilities are not kept: {error}");
}

/// The progress of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Progress {
    /// The number of finished windows.
    pub windows: usize,
    /// The number of tokens that the model has run.
    pub tokens: usize,
    /// The time for these tokens, with the scoring but without the base.
    pub seconds: f64,
    /// The perplexity so far.
    pub perplexity: f64,
}

/// Scores every target of a text, in order. Calls `report` after each group of windows.
///
/// # Errors
/// Vocabularies that do not fit, logits that are not finite, errors of the models and of the file, an interruption.
pub(crate) fn scores(
    model: &dyn Logits,
    mut base: Option<&mut BaseSource>,
    text: &WindowedText,
    stop: &AtomicBool,
    mut report: impl FnMut(Progress),
) -> Result<Vec<Score>> {
    text.check(model.vocabulary())?;
    check_vocabularies(model, base.as_deref())?;
    let mut scores = Vec::with_capacity(text.targets());
    let mut rows = EncodedRows::default();
    let mut progress = Progress { windows: 0, tokens: 0, seconds: 0.0, perplexity: f64::NAN };
    let mut nll = 0.0;
    for windows in text.windows.chunks(text.batch.max(1)) {
        let sequences: Vec<ScoredSequence> = windows.iter().map(|window| text.sequence(window)).collect();
        if let Some(base) = base.as_deref_mut() {
            base.rows(progress.windows, &sequences, &mut rows, stop)?;
        }
        let targets: Vec<u32> =
            windows.iter().flat_map(|w| &text.tokens[w.targets.clone()]).copied().collect();
        let base_rows = base.as_deref().map(|base| (&rows, base.precision()));
        let start = Instant::now();
        let before = scores.len();
        model.logits(&sequences, &mut |row, block| {
            check_running(stop)?;
            block_scores(block, &targets[row..], base_rows, row, model.vocabulary(), &mut scores)
        })?;
        nll += scores[before..].iter().map(|score| score.nll).sum::<f64>();
        progress.windows += windows.len();
        progress.tokens += sequences.iter().map(|sequence| sequence.tokens.len()).sum::<usize>();
        progress.seconds += start.elapsed().as_secs_f64();
        progress.perplexity = (nll / scores.len() as f64).exp();
        report(progress);
    }
    Ok(scores)
}

fn check_vocabularies(model: &dyn Logits, base: Option<&BaseSource>) -> Result<()> {
    let Some(BaseSource::Model { model: base, .. }) = base else { return Ok(()) };
    if base.vocabulary() == model.vocabulary() {
        return Ok(());
    }
    Err(Error::unsupported(
        format!(
            "the model's vocabulary has {} tokens, the base's has {}",
            model.vocabulary(),
            base.vocabulary()
        ),
        "probabilities are compared token by token: use the base that the model was made from",
    ))
}

/// Scores a block of rows; `first` is the index of its first row in the group.
fn block_scores(
    block: &[f32],
    targets: &[u32],
    base: Option<(&EncodedRows, Precision)>,
    first: usize,
    vocabulary: usize,
    scores: &mut Vec<Score>,
) -> Result<()> {
    let rows = block.par_chunks_exact(vocabulary).zip(targets).enumerate();
    let block_scores: Vec<Score> = rows
        .map_init(Vec::new, |scratch, (index, (row, target))| {
            let softmax = LogSoftmax::new(row).ok_or_else(|| not_finite("model", first + index))?;
            let target = *target as usize;
            let nll = -f64::from(softmax.log_probability(row[target]));
            let Some((rows, precision)) = base else { return Ok(Score { nll, base: None }) };
            scratch.resize(vocabulary, 0.0);
            let encoded = rows.row(first + index);
            encoded
                .and_then(|row| precision.decode(row, scratch))
                .ok_or_else(|| undecodable(first + index))?;
            Ok(Score { nll, base: Some(base_score(&softmax, row, scratch, precision.floor(), target)) })
        })
        .collect::<Result<_>>()?;
    scores.extend(block_scores);
    Ok(())
}

fn base_score(softmax: &LogSoftmax, row: &[f32], base: &[f32], floor: f32, target: usize) -> BaseScore {
    let top = super::softmax::largest(base).map(|(top, _)| top);
    BaseScore {
        nll: -f64::from(base[target]),
        kld: softmax.divergence(row, base, floor),
        same_top: top == Some(softmax.top),
    }
}

fn check_running(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted {
            hint: "run the same command again; it starts from the beginning".into(),
        });
    }
    Ok(())
}

fn not_finite(whose: &str, row: usize) -> Error {
    Error::unsupported(
        format!("the {whose}'s logits are not finite, at target {row} of the windows in this batch"),
        NOT_FINITE,
    )
}

fn undecodable(row: usize) -> Error {
    Error::unsupported(
        format!("the stored log-probabilities of target {row} of a batch cannot be decoded"),
        "run again with --no-base-cache, or delete the file in the base cache",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
