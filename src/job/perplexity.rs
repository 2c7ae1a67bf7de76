//! Perplexity over a text, and the divergence from a base.

use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::base::{BaseModel, Subject};
use super::engine::Engine;
use super::host::{Host, Notice, Phase};
use super::outputs::check_arrays;
use super::record::Origin;
use crate::corpus::Text;
use crate::engine::{LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::base::Precision;
use crate::eval::corpus::Corpus;
use crate::eval::perplexity::{self, BaseSource, Progress, WindowedText};
use crate::eval::positions::PositionFile;
use crate::eval::summary::{Score, Summary};
use crate::eval::windows::{Protocol, Window};
use crate::io::Checkpoint;

/// Default of the tokens that are run together.
const BATCH_TOKENS: usize = 2048;
/// Most bytes of the base's rows that are held at a time.
const BASE_BYTES: u64 = 256 << 20;

/// A model to be scored on a text.
#[derive(Debug, Clone)]
pub struct Perplexity {
    /// A path or a hub id.
    pub model: String,
    /// A text file, a table with a column `text`, or a dataset in the hub's cache.
    pub data: String,
    /// The rule by which the text is cut.
    pub protocol: Protocol,
    /// Most windows to score; `None` for all.
    pub windows: Option<usize>,
    /// Windows that are run together; `None` for as many as 2048 tokens hold.
    pub batch: Option<usize>,
    /// A file for the score of each position.
    pub per_position: Option<PathBuf>,
    /// The base to compare with.
    pub base: Option<BaseModel>,
    /// The way that both are run.
    pub engine: Engine,
}

/// The record of a perplexity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerplexityRecord {
    /// The model, as given.
    pub model: String,
    /// The text, as given.
    pub data: String,
    /// The rule by which the text was cut.
    pub protocol: Protocol,
    /// True if BOS took the place of the first token of each window.
    pub begins_with_bos: bool,
    /// Rounding of the inputs of linear layers: `auto`, `f32`.
    pub activations: String,
    /// Windows.
    pub windows: usize,
    /// Tokens that were run.
    pub tokens: usize,
    /// Time of the scoring, in seconds.
    pub seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// The figures.
    #[serde(flatten)]
    pub summary: Summary,
    /// The base, if there is one.
    pub base: Option<BaseRecord>,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

/// The base of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The base, as given.
    pub model: String,
    /// The precision in which its log-probabilities were held.
    pub precision: Precision,
}

impl Perplexity {
    /// Scores a model on a text in chunks of 512 tokens, as llama-perplexity does.
    pub fn new(model: impl Into<String>, data: impl Into<String>) -> Perplexity {
        Perplexity {
            model: model.into(),
            data: data.into(),
            protocol: Protocol::Chunks { context: 512 },
            windows: None,
            batch: None,
            per_position: None,
            base: None,
            engine: Engine::default(),
        }
    }

    /// Scores the text.
    ///
    /// # Errors
    /// A model or a base that cannot be run; a text that is missing or too short; files that cannot be written.
    pub fn run(&self, host: &dyn Host) -> Result<PerplexityRecord> {
        self.per_position.as_deref().map_or(Ok(()), check_arrays)?;
        let text = Text::open(&self.data)?;
        let model = self.engine.load(&self.model, host)?;
        self.protocol.check(model.context_limit())?;
        let base = self.base.as_ref().map(|base| host.open(&base.model)).transpose()?;
        let corpus = self.corpus(&text, &model, base.as_ref(), host)?;
        let windows = self.cut(&corpus, host)?;
        let batch = self.batch(&windows, model.vocabulary());
        let task = WindowedText { tokens: &corpus.tokens, windows: &windows, first: corpus.first, batch };
        let subject = Subject {
            corpus: &corpus,
            task: &task,
            protocol: self.protocol,
            vocabulary: model.vocabulary(),
            options: self.engine.options,
        };
        let base = self.base.as_ref().zip(base);
        let base = base.map(|(base, checkpoint)| subject.open(base, checkpoint, host)).transpose()?;
        let (scores, progress) = self.scores(&model, base, &task, host)?;
        Ok(self.record(&corpus, Summary::new(&scores), &progress))
    }

    /// The text in the model's tokens, which the base gets too.
    fn corpus(
        &self,
        text: &Text,
        model: &LanguageModel,
        base: Option<&Checkpoint>,
        host: &dyn Host,
    ) -> Result<Corpus> {
        let of_base = base.map(Tokenizer::open);
        let (tokenizer, other) = match (Tokenizer::open(model.checkpoint()), of_base) {
            (Ok(tokenizer), of_base) => (tokenizer, of_base.and_then(Result::ok)),
            (Err(error), Some(Ok(tokenizer))) => {
                host.notify(&Notice::Warning(format!("{error}: the base's tokenizer is used")));
                (tokenizer, None)
            }
            (Err(error), _) => return Err(error),
        };
        tokenizer.check_fits(model.vocabulary())?;
        let corpus = Corpus::new(text, &tokenizer, self.protocol)?;
        if let Some(other) = other
            && Corpus::new(text, &other, self.protocol)? != corpus
        {
            let what = "the base's tokenizer makes other tokens of this text; both are run on the model's";
            host.notify(&Notice::Warning(what.to_owned()));
        }
        Ok(corpus)
    }

    /// The windows to score: as many as asked for, or as there are.
    fn cut(&self, corpus: &Corpus, host: &dyn Host) -> Result<Vec<Window>> {
        let mut windows = self.protocol.windows(corpus.tokens.len())?;
        match self.windows {
            Some(0) => {
                return Err(Error::usage("--chunks must be at least 1", "leave it out to score them all"));
            }
            Some(most) if most > windows.len() => host.notify(&Notice::Warning(format!(
                "the text has {} chunks, not {most}: all are scored",
                windows.len()
            ))),
            most => windows.truncate(most.unwrap_or(usize::MAX)),
        }
        Ok(windows)
    }

    /// Windows to run together.
    fn batch(&self, windows: &[Window], vocabulary: usize) -> usize {
        let tokens = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(1);
        let row = self.base.as_ref().map_or(0, |base| base.precision.row_bytes(vocabulary));
        let window = windows.iter().map(|window| window.targets.len() as u64 * row).max().unwrap_or(1);
        let held = if self.base.is_some() { BASE_BYTES / window.max(1) } else { u64::MAX };
        self.batch.unwrap_or((BATCH_TOKENS / tokens).min(held as usize)).max(1)
    }

    /// Scores the task; writes the score of each position if asked.
    fn scores(
        &self,
        model: &LanguageModel,
        mut base: Option<BaseSource>,
        task: &WindowedText,
        host: &dyn Host,
    ) -> Result<(Vec<Score>, Progress)> {
        let positions = self.positions(task)?;
        let bar = host.bar(Phase::Scoring, task.windows.len() as u64);
        let mut last = None;
        let scores = perplexity::scores(model, base.as_mut(), task, host.interrupted(), |progress| {
            show(&bar, &progress);
            last = Some(progress);
        })?;
        bar.finish_and_clear();
        if let Some(path) = base.and_then(BaseSource::finish) {
            let size = HumanBytes(std::fs::metadata(&path).map_or(0, |file| file.len()));
            host.notify(&Notice::Note(format!(
                "the base's log-probabilities are kept for the next comparison: {}, {size}",
                path.display()
            )));
        }
        positions.map_or(Ok(()), |positions| positions.write(task, &scores))?;
        Ok((scores, last.expect("a task has a window")))
    }

    fn positions(&self, task: &WindowedText) -> Result<Option<PositionFile>> {
        let Some(path) = self.per_position.as_deref() else { return Ok(None) };
        let mut metadata = json!({ "model": self.model, "data": self.data });
        if let Some(base) = &self.base {
            metadata["against"] = base.model.as_str().into();
        }
        PositionFile::create(path, task, self.base.is_some(), metadata).map(Some)
    }

    fn record(&self, corpus: &Corpus, summary: Summary, progress: &Progress) -> PerplexityRecord {
        let base = self.base.as_ref();
        PerplexityRecord {
            model: self.model.clone(),
            data: self.data.clone(),
            protocol: self.protocol,
            begins_with_bos: corpus.first.is_some(),
            activations: format!("{:?}", self.engine.options.activations).to_lowercase(),
            windows: progress.windows,
            tokens: progress.tokens,
            seconds: progress.seconds,
            tokens_per_second: progress.tokens as f64 / progress.seconds,
            summary,
            base: base.map(|base| BaseRecord { model: base.model.clone(), precision: base.precision }),
            origin: Origin::here(),
        }
    }
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let speed = progress.tokens as f64 / progress.seconds;
    bar.set_message(format!("PPL {:.2}, {speed:.0} tokens/s", progress.perplexity));
    bar.set_position(progress.windows as u64);
}
