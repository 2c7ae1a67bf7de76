//! Scores a text, a few windows at a time: the model's rows of logits against the tokens that stand there, and against the
//! base's rows where there is a base. Never more than the rows of one forward pass are held, and those encoded.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::base::{Precision, Reader, Rows, Writer};
use super::softmax::LogSoftmax;
use super::summary::{Against, Score};
use super::windows::Window;
use crate::error::{Error, Result};

/// What is shown rows of logits: the number of the first, among all that were wanted, and [rows, vocabulary] values.
pub type See<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + Send + 'a;

/// A model, for this purpose.
pub trait Logits: Sync {
    /// Values of a row of logits.
    fn vocabulary(&self) -> usize;
    /// Runs sequences together, and shows the rows wanted of each in order, a block of whole rows at a time.
    fn logits(&self, sequences: &[Sequence], see: &mut See) -> Result<()>;
}

impl<T: Logits + ?Sized> Logits for &T {
    fn vocabulary(&self) -> usize {
        (**self).vocabulary()
    }

    fn logits(&self, sequences: &[Sequence], see: &mut See) -> Result<()> {
        (**self).logits(sequences, see)
    }
}

/// Tokens that are run from an empty context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Which rows are wanted.
    pub rows: Range<usize>,
}

/// A text, cut.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// All of it.
    pub tokens: &'a [u32],
    /// Where it is cut, and what is scored.
    pub windows: &'a [Window],
    /// What takes the place of the first token of each window.
    pub first: Option<u32>,
    /// Windows that are run together.
    pub batch: usize,
}

impl Task<'_> {
    /// How many tokens are scored.
    pub fn targets(&self) -> usize {
        self.windows.iter().map(|window| window.targets.len()).sum()
    }

    fn sequence(&self, window: &Window) -> Sequence {
        let mut tokens = self.tokens[window.tokens.clone()].to_vec();
        if let (Some(first), Some(token)) = (self.first, tokens.first_mut()) {
            *token = first;
        }
        Sequence { tokens, rows: window.rows() }
    }

    /// Refuses tokens that a model with such a vocabulary does not have.
    fn check(&self, vocabulary: usize) -> Result<()> {
        let largest = self.tokens.iter().copied().chain(self.first).max().unwrap_or(0);
        if (largest as usize) < vocabulary {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("the text holds token {largest}, but the model's vocabulary ends at {vocabulary}"),
            "the tokenizer is another model's: take tokenizer.json from where the weights came from",
        ))
    }
}

/// Where the base's log-probabilities come from.
pub enum Base<'a> {
    /// An earlier run.
    Stored(Reader, Precision),
    /// The base, run beside the model; what it says is written down for the next time.
    Run {
        /// The base.
        model: Box<dyn Logits + 'a>,
        /// The form of its rows: the same as where they are stored, so that figures are the same.
        precision: Precision,
        /// Where to write them.
        writer: Option<Writer>,
    },
}

impl Base<'_> {
    fn precision(&self) -> Precision {
        match self {
            Base::Stored(_, precision) | Base::Run { precision, .. } => *precision,
        }
    }

    /// The rows of a group of windows, the first of which has this number.
    fn rows(
        &mut self,
        first: usize,
        sequences: &[Sequence],
        rows: &mut Rows,
        stop: &AtomicBool,
    ) -> Result<()> {
        rows.clear();
        match self {
            Base::Stored(reader, _) => {
                (first..first + sequences.len()).try_for_each(|window| reader.window(window, rows))
            }
            Base::Run { model, precision, writer } => {
                let vocabulary = model.vocabulary();
                model.logits(sequences, &mut |row, block| {
                    check_running(stop)?;
                    rows.push(*precision, block, vocabulary).map_err(|bad| not_numbers("base", row + bad))
                })?;
                write_down(writer, sequences, rows);
                Ok(())
            }
        }
    }

    /// Puts what was written down in its place, and says where.
    pub fn finish(self) -> Option<PathBuf> {
        let Base::Run { writer: Some(writer), .. } = self else { return None };
        writer.finish().inspect_err(not_kept).ok()
    }
}

/// A disk that is full costs the cache, not the figures.
fn write_down(writer: &mut Option<Writer>, sequences: &[Sequence], rows: &Rows) {
    let Some(open) = writer else { return };
    let mut start = 0;
    let written = sequences.iter().try_for_each(|sequence| {
        let range = start..start + sequence.rows.len();
        start = range.end;
        open.push(rows, range)
    });
    if let Err(error) = written {
        not_kept(&error);
        *writer = None;
    }
}

fn not_kept(error: &Error) {
    tracing::warn!("the base's log-probabilities are not kept: {error}");
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Windows that are done.
    pub windows: usize,
    /// Tokens that the model has run.
    pub tokens: usize,
    /// Seconds that it took for them, the scoring included and the base left out.
    pub seconds: f64,
    /// Perplexity so far.
    pub perplexity: f64,
}

/// Scores every target of a task, in order. `tell` is called after each group of windows.
///
/// # Errors
/// Vocabularies that do not fit; logits that are not numbers; what the models and the store say; an interruption.
pub fn scores(
    model: &dyn Logits,
    mut base: Option<&mut Base>,
    task: &Task,
    stop: &AtomicBool,
    mut tell: impl FnMut(Progress),
) -> Result<Vec<Score>> {
    task.check(model.vocabulary())?;
    check_vocabularies(model, base.as_deref())?;
    let mut scores = Vec::with_capacity(task.targets());
    let mut rows = Rows::default();
    let mut progress = Progress { windows: 0, tokens: 0, seconds: 0.0, perplexity: f64::NAN };
    let mut nll = 0.0;
    for windows in task.windows.chunks(task.batch.max(1)) {
        let sequences: Vec<Sequence> = windows.iter().map(|window| task.sequence(window)).collect();
        if let Some(base) = base.as_deref_mut() {
            base.rows(progress.windows, &sequences, &mut rows, stop)?;
        }
        let targets: Vec<u32> =
            windows.iter().flat_map(|w| &task.tokens[w.targets.clone()]).copied().collect();
        let against = base.as_deref().map(|base| (&rows, base.precision()));
        let (start, before) = (Instant::now(), scores.len());
        model.logits(&sequences, &mut |row, block| {
            check_running(stop)?;
            block_scores(block, &targets[row..], against, row, model.vocabulary(), &mut scores)
        })?;
        nll += scores[before..].iter().map(|score| score.nll).sum::<f64>();
        progress.windows += windows.len();
        progress.tokens += sequences.iter().map(|sequence| sequence.tokens.len()).sum::<usize>();
        progress.seconds += start.elapsed().as_secs_f64();
        progress.perplexity = (nll / scores.len() as f64).exp();
        tell(progress);
    }
    Ok(scores)
}

fn check_vocabularies(model: &dyn Logits, base: Option<&Base>) -> Result<()> {
    let Some(Base::Run { model: base, .. }) = base else { return Ok(()) };
    if base.vocabulary() == model.vocabulary() {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("the model's vocabulary is {}, that of the base {}", model.vocabulary(), base.vocabulary()),
        "probabilities compare token by token: name the base that the model was made from",
    ))
}

/// Scores the rows of a block, which is row `first` and following of the group.
fn block_scores(
    block: &[f32],
    targets: &[u32],
    base: Option<(&Rows, Precision)>,
    first: usize,
    vocabulary: usize,
    scores: &mut Vec<Score>,
) -> Result<()> {
    let rows = block.par_chunks_exact(vocabulary).zip(targets).enumerate();
    let found: Vec<Score> = rows
        .map_init(Vec::new, |scratch, (index, (row, target))| {
            let softmax = LogSoftmax::new(row).ok_or_else(|| not_numbers("model", first + index))?;
            let target = *target as usize;
            let nll = -f64::from(softmax.log_probability(row[target]));
            let against = base.map(|(rows, precision)| {
                scratch.resize(vocabulary, 0.0);
                let stored = rows.row(first + index).and_then(|row| precision.decode(row, scratch));
                stored.map(|()| beside(&softmax, row, scratch, precision.floor(), target))
            });
            match against {
                Some(None) => Err(undecodable(first + index)),
                Some(against) => Ok(Score { nll, against }),
                None => Ok(Score { nll, against: None }),
            }
        })
        .collect::<Result<_>>()?;
    scores.extend(found);
    Ok(())
}

fn beside(softmax: &LogSoftmax, row: &[f32], base: &[f32], floor: f32, target: usize) -> Against {
    let top = super::softmax::largest(base).map(|(top, _)| top);
    Against {
        nll: -f64::from(base[target]),
        kld: softmax.divergence(row, base, floor),
        same_top: top == Some(softmax.top),
    }
}

fn check_running(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted {
            hint: "run the same command again; nothing was left behind".into(),
        });
    }
    Ok(())
}

fn not_numbers(whose: &str, row: usize) -> Error {
    Error::unsupported(
        format!("the {whose}'s logits are not numbers, at target {row} of the windows run together"),
        "its weights hold NaN or infinity, or its activations overflow: `llmc verify` looks for the first",
    )
}

fn undecodable(row: usize) -> Error {
    Error::unsupported(
        format!("the stored log-probabilities of target {row} of a window cannot be decoded"),
        "run again with --no-base-cache, or delete the file in the base cache",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
