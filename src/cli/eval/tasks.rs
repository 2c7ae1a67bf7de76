//! `llmc eval tasks`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressStyle;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::super::{Context, engine_args};
use crate::engine::{ChatTemplate, LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::tasks::model::{Examinee, Loaded, Watch, memory};
use crate::eval::tasks::{self, Options, Scores, Source, Task, results};

/// Positions of models that do not say how many they have, as lm-evaluation-harness takes it.
const CONTEXT: usize = 2048;

/// Ask a model the questions of benchmarks and score its answers, as lm-evaluation-harness does
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval tasks org/name --tasks hellaswag,arc_easy --data datasets/ --limit 200
  llmc eval tasks model-w4a16 --tasks mmlu --fewshot 5 --samples answers.jsonl

Datasets are looked for in --data, or in the hub's cache; tasks/README.md says how to get and how to define them.")]
pub struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// Tasks, collections and parts of them (mmlu, mmlu_stem, mmlu_anatomy), or paths of your own (*.toml)
    #[arg(long, value_name = "TASK,…", value_delimiter = ',', required_unless_present = "list")]
    tasks: Vec<String>,
    /// List the tasks
    #[arg(long, conflicts_with_all = ["model", "tasks"])]
    list: bool,
    /// The folder with the datasets' files [default: the hub's cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Ask the first N questions of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Examples before each question [default: as the task says]
    #[arg(long, value_name = "K")]
    fewshot: Option<usize>,
    /// Seed of the draw of examples
    #[arg(long, value_name = "S", default_value_t = 1234)]
    seed: u64,
    /// Tokens that are worked on at a time [default: by the free memory]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Ask in the model's chat template, examples as turns
    #[arg(long)]
    chat: bool,
    /// Write a line of JSON for each question: what was asked, said, chosen, right
    #[arg(long, value_name = "FILE.jsonl")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

/// Asks and scores.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let Some(model) = arguments.model.as_deref().filter(|_| !arguments.list) else { return list(context) };
    let tasks = chosen(&arguments.tasks)?;
    let source = Source::new(arguments.data.as_deref());
    // Before a model is loaded: a file that is missing should not cost that.
    tasks.iter().try_for_each(|task| source.files(task, &task.definition.split).map(|_| ()))?;
    let loaded = arguments.engine.open(model, context)?;
    let scores = results::with_averages(&tasks, ask_all(arguments, &loaded, &tasks, &source, context)?);
    let json = || {
        let mut json = results::json(&scores);
        json["model"] = json!(model);
        json["limit"] = json!(arguments.limit);
        json
    };
    context.print(|| results::table(&scores), json)
}

fn list(context: &Context) -> Result<()> {
    let shipped = tasks::shipped();
    let text = || {
        shipped.iter().fold(String::new(), |mut text, definition| {
            writeln!(text, "{:16}{}  ({})", definition.name, definition.title, definition.dataset)
                .expect("a String takes all");
            text
        })
    };
    let line = |definition: &tasks::definition::Definition| {
        let parts: Vec<_> = definition.subsets.iter().map(|part| &part.config).collect();
        json!({ "task": definition.name, "title": definition.title, "dataset": definition.dataset, "parts": parts })
    };
    context.print(text, || shipped.iter().map(|definition| line(definition)).collect())
}

/// The tasks of all the names, each once.
fn chosen(names: &[String]) -> Result<Vec<Task>> {
    let mut seen = BTreeSet::new();
    let all = names.iter().map(|name| tasks::find(name)).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().filter(|task| seen.insert(task.name.clone())).collect())
}

fn ask_all(
    arguments: &Arguments,
    model: &LanguageModel,
    tasks: &[Task],
    source: &Source,
    context: &Context,
) -> Result<Vec<Scores>> {
    let tokenizer = Tokenizer::open(model.checkpoint())?;
    tokenizer.check_fits(model.vocabulary())?;
    let bar = context.progress(0, "");
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} questions, eta {eta}");
    style.iter().for_each(|style| bar.set_style(style.clone().progress_chars("=> ")));
    let progress = |answered: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(answered as u64);
    };
    let limit = model.context_limit().unwrap_or(CONTEXT);
    let batch = arguments.batch.map(|tokens| tokens as usize);
    let mut examinee = Examinee {
        runner: Loaded::new(model),
        tokenizer: &tokenizer,
        chat: arguments.chat.then(|| ChatTemplate::open(model.checkpoint())).transpose()?,
        context: limit,
        budget: batch.unwrap_or_else(|| memory::budget(model.model())),
        watch: Watch { interrupted: &context.interrupted, progress: &progress },
    };
    let options = Options {
        limit: arguments.limit.map(|limit| limit as usize),
        fewshot: arguments.fewshot,
        seed: arguments.seed,
        chat: arguments.chat,
    };
    let mut samples = arguments.samples.as_deref().map(Samples::create).transpose()?;
    let mut scores = Vec::new();
    for task in tasks {
        bar.set_message(task.name.clone());
        bar.reset();
        let mut keep = |sample| samples.as_mut().map_or(Ok(()), |samples| samples.add(&sample));
        scores.push(tasks::run(task, source, options, &mut examinee, &mut keep)?);
    }
    bar.finish_and_clear();
    samples.map_or(Ok(()), Samples::finish)?;
    Ok(scores)
}

/// The file of `--samples`: beside its name until it is complete.
struct Samples<'a> {
    file: BufWriter<NamedTempFile>,
    path: &'a Path,
}

impl<'a> Samples<'a> {
    fn create(path: &'a Path) -> Result<Samples<'a>> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(|e| Error::io(folder, e))?;
        Ok(Samples { file: BufWriter::new(file), path })
    }

    fn add(&mut self, sample: &Value) -> Result<()> {
        writeln!(self.file, "{sample}").map_err(|e| Error::io(self.path, e))
    }

    fn finish(self) -> Result<()> {
        let file = self.file.into_inner().map_err(|e| Error::io(self.path, e.into_error()))?;
        file.persist(self.path).map(|_| ()).map_err(|e| Error::io(self.path, e.error))
    }
}
