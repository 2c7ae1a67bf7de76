//! `llmc eval perplexity`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, ProgressBar};
use serde_json::json;

use super::super::{Context, engine_args};
use super::base_args::{self, Subject};
use super::report::Report;
use crate::corpus::Text;
use crate::engine::{LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::corpus::Corpus;
use crate::eval::perplexity::{self, BaseSource, Progress, WindowedText};
use crate::eval::positions::PositionFile;
use crate::eval::summary::{Score, Summary};
use crate::eval::windows::{Protocol, Window};
use crate::io::Checkpoint;

/// Tokens that are run together where --batch says nothing else.
const TOGETHER: usize = 2048;
/// Most bytes of the base's rows that are held at a time.
const BASE_BYTES: u64 = 256 << 20;

/// Perplexity over a text, and KL divergence from a base
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval perplexity org/name --data wiki.test.txt --chunks 24
  llmc eval perplexity model-w4a16 --data wiki.test.txt --against org/name --json")]
pub struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// UTF-8 text, .jsonl or .parquet with a column `text`, or a dataset in the hub's cache (org/name:config/split)
    #[arg(long, value_name = "FILE|DATASET")]
    data: String,
    /// How the text is cut, and what is scored
    #[arg(long, value_enum, value_name = "NAME", default_value = "chunks")]
    protocol: Name,
    /// Tokens of a chunk or window [default: 512 for chunks, 2048 for hf]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Tokens between the starts of two windows of `hf` [default: --ctx]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Score the first N chunks or windows only
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Chunks that are run together [default: as many as 2048 tokens hold]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Write what each position scored: nll, token, position; beside a base also kld, delta_p, same_top
    #[arg(long, value_name = "FILE.safetensors")]
    per_position: Option<PathBuf>,
    #[command(flatten)]
    engine: engine_args::Arguments,
    #[command(flatten)]
    base: base_args::Arguments,
}

/// The protocols by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// As llama-perplexity: separate chunks, of which the second half is scored
    Chunks,
    /// As transformers' guide: windows, every token scored once
    Hf,
}

/// Measures.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let protocol = arguments.protocol()?;
    let text = Text::open(&arguments.data)?;
    let model = arguments.engine.open(&arguments.model, context)?;
    protocol.check(model.context_limit())?;
    let base = arguments.base.against.as_deref().map(|base| context.open(base)).transpose()?;
    let corpus = corpus(&text, &model, base.as_ref(), protocol)?;
    let windows = arguments.windows(protocol, &corpus)?;
    let batch = arguments.batch(&windows, model.vocabulary());
    let task = WindowedText { tokens: &corpus.tokens, windows: &windows, first: corpus.first, batch };
    let options = arguments.engine.options();
    let subject = Subject { corpus: &corpus, task: &task, protocol, vocabulary: model.vocabulary(), options };
    let base = base.map(|base| arguments.base.open(base, &subject, context)).transpose()?;
    let (scores, progress) = arguments.scores(&model, base, &task, context)?;
    let report = Report {
        model: &arguments.model,
        base: arguments.base.against.as_deref(),
        precision: arguments.base.precision(),
        data: &arguments.data,
        protocol,
        begins_with_bos: corpus.first.is_some(),
        activations: options.activations,
        summary: Summary::new(&scores),
        progress,
    };
    context.print(|| report.text(), || report.json())
}

/// The text in the model's tokens. The base must be asked about the same ones.
fn corpus(
    text: &Text,
    model: &LanguageModel,
    base: Option<&Checkpoint>,
    protocol: Protocol,
) -> Result<Corpus> {
    let of_base = base.map(Tokenizer::open);
    let (tokenizer, other) = match (Tokenizer::open(model.checkpoint()), of_base) {
        (Ok(tokenizer), of_base) => (tokenizer, of_base.and_then(Result::ok)),
        (Err(error), Some(Ok(tokenizer))) => {
            eprintln!("warning: {error}: the base's tokenizer is used");
            (tokenizer, None)
        }
        (Err(error), _) => return Err(error),
    };
    tokenizer.check_fits(model.vocabulary())?;
    let corpus = Corpus::new(text, &tokenizer, protocol)?;
    if let Some(other) = other
        && Corpus::new(text, &other, protocol)? != corpus
    {
        eprintln!(
            "warning: the base's tokenizer makes other tokens of this text; both are run on the model's"
        );
    }
    Ok(corpus)
}

impl Arguments {
    fn protocol(&self) -> Result<Protocol> {
        match (self.protocol, self.stride) {
            (Name::Chunks, None) => Ok(Protocol::Chunks { context: self.ctx.unwrap_or(512) }),
            (Name::Chunks, Some(_)) => {
                Err(Error::usage("chunks have no --stride: they do not overlap", "--protocol hf has one"))
            }
            (Name::Hf, stride) => {
                let context = self.ctx.unwrap_or(2048);
                Ok(Protocol::Strided { context, stride: stride.unwrap_or(context) })
            }
        }
    }

    /// As many as were asked for, or as there are.
    fn windows(&self, protocol: Protocol, corpus: &Corpus) -> Result<Vec<Window>> {
        let mut windows = protocol.windows(corpus.tokens.len())?;
        match self.chunks {
            Some(0) => {
                return Err(Error::usage("--chunks must be at least 1", "leave it out to score them all"));
            }
            Some(chunks) if chunks > windows.len() => {
                eprintln!("warning: the text has {} chunks, not {chunks}: all are scored", windows.len());
            }
            chunks => windows.truncate(chunks.unwrap_or(usize::MAX)),
        }
        Ok(windows)
    }

    /// Windows to run together.
    fn batch(&self, windows: &[Window], vocabulary: usize) -> usize {
        let tokens = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(1);
        let row = self.base.precision().row_bytes(vocabulary);
        let base = windows.iter().map(|window| window.targets.len() as u64 * row).max().unwrap_or(1);
        let held = if self.base.against.is_some() { BASE_BYTES / base.max(1) } else { u64::MAX };
        self.batch.unwrap_or((TOGETHER / tokens).min(held as usize)).max(1)
    }

    /// Scores the task; what each position scored is written where that was asked for.
    fn scores(
        &self,
        model: &LanguageModel,
        mut base: Option<BaseSource>,
        task: &WindowedText,
        context: &Context,
    ) -> Result<(Vec<Score>, Progress)> {
        let mut metadata = json!({ "model": self.model, "data": self.data });
        if let Some(base) = &self.base.against {
            metadata["against"] = base.as_str().into();
        }
        let positions = self.per_position.as_deref();
        positions.map_or(Ok(()), |path| super::check_output(path, model))?;
        let positions = positions.map(|path| PositionFile::create(path, task, base.is_some(), metadata));
        let positions = positions.transpose()?;
        let bar =
            context.bar(task.windows.len() as u64, "{msg} [{wide_bar}] {pos}/{len} eta {eta}", "scoring");
        let mut last = None;
        let scores = perplexity::scores(model, base.as_mut(), task, &context.interrupted, |progress| {
            show(&bar, &progress);
            last = Some(progress);
        })?;
        bar.finish_and_clear();
        if let Some(path) = base.and_then(BaseSource::finish) {
            let size = std::fs::metadata(&path).map_or(0, |file| file.len());
            if !context.global.quiet {
                let (path, size) = (path.display(), HumanBytes(size));
                eprintln!(
                    "note: the base's log-probabilities are kept for the next comparison: {path}, {size}"
                );
            }
        }
        positions.map_or(Ok(()), |positions| positions.write(task, &scores))?;
        Ok((scores, last.expect("a task has a window")))
    }
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let speed = progress.tokens as f64 / progress.seconds;
    bar.set_message(format!("perplexity {:.4}, {speed:.0} tokens/s", progress.perplexity));
    bar.set_position(progress.windows as u64);
}
