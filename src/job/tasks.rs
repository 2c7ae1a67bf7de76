//! The questions of benchmarks, asked to a model.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::engine::Engine;
use super::host::{Host, Phase};
use super::outputs::check_samples;
use super::record::Origin;
use crate::engine::{ChatTemplate, LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::tasks::model::{ModelRespondent, ModelRunner, Monitor, memory};
use crate::eval::tasks::scoring::Mean;
use crate::eval::tasks::{self, DatasetLocation, Scores, Task, TaskOptions, results};
use crate::io::folder_of;

/// Positions of models that do not say how many they have, as in lm-evaluation-harness.
const CONTEXT: usize = 2048;

/// A model to be asked.
#[derive(Debug, Clone, Default)]
pub struct AskTasks {
    /// A path or a hub id.
    pub model: String,
    /// Tasks, collections and parts of them, or paths of definitions.
    pub tasks: Vec<String>,
    /// The folder with the datasets; `None` for the hub's cache.
    pub data: Option<PathBuf>,
    /// Most questions of each task.
    pub limit: Option<usize>,
    /// Examples before each question; `None` as the task says.
    pub fewshot: Option<usize>,
    /// Seed of the draw of examples.
    pub seed: u64,
    /// Tokens that are run together; `None` as many as the free memory allows.
    pub batch: Option<usize>,
    /// True to ask in the model's chat template.
    pub chat: bool,
    /// A file for a line of JSON for each question.
    pub samples: Option<PathBuf>,
    /// The way that the model is run.
    pub engine: Engine,
}

/// The record of benchmarks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TasksRecord {
    /// Each task, then the collections that were run completely.
    pub tasks: Vec<TaskRecord>,
    /// The model, as given.
    pub model: String,
    /// Most questions of each task.
    pub limit: Option<usize>,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

/// The scores of a task, or of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Name.
    pub task: String,
    /// Questions.
    pub n: usize,
    /// Examples before each question.
    pub fewshot: usize,
    /// Scores by metric.
    pub metrics: IndexMap<String, Metric>,
}

/// The mean of a metric over questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Mean.
    pub value: f64,
    /// Standard error; `None` for a single question.
    pub stderr: Option<f64>,
    /// Questions, or parts of a collection for a mean over parts.
    pub questions: usize,
}

impl AskTasks {
    /// Asks every question and scores the answers.
    ///
    /// # Errors
    /// Tasks that are not known; datasets that are not there; a model that cannot be run.
    pub fn run(&self, host: &dyn Host) -> Result<TasksRecord> {
        let tasks = chosen(&self.tasks)?;
        self.samples.as_deref().map_or(Ok(()), check_samples)?;
        let source = DatasetLocation::new(self.data.as_deref());
        // Before the model is loaded: a missing file should not cost that.
        tasks.iter().try_for_each(|task| source.files(task, &task.definition.split).map(|_| ()))?;
        let model = self.engine.load(&self.model, host)?;
        let scores = results::with_averages(&tasks, self.ask(&model, &tasks, &source, host)?);
        Ok(TasksRecord {
            tasks: scores.iter().map(TaskRecord::new).collect(),
            model: self.model.clone(),
            limit: self.limit,
            origin: Origin::here(),
        })
    }

    fn ask(
        &self,
        model: &LanguageModel,
        tasks: &[Task],
        source: &DatasetLocation,
        host: &dyn Host,
    ) -> Result<Vec<Scores>> {
        let tokenizer = Tokenizer::open(model.checkpoint())?;
        tokenizer.check_fits(model.vocabulary())?;
        let bar = host.bar(Phase::Answering, 0);
        let progress = |answered: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(answered as u64);
        };
        let mut respondent = ModelRespondent {
            runner: ModelRunner::new(model),
            tokenizer: &tokenizer,
            chat: self.chat.then(|| ChatTemplate::open(model.checkpoint())).transpose()?,
            context: model.context_limit().unwrap_or(CONTEXT),
            budget: self.batch.unwrap_or_else(|| memory::budget(model.model())),
            monitor: Monitor { interrupted: host.interrupted(), progress: &progress },
        };
        let Self { limit, fewshot, seed, chat, .. } = *self;
        let options = TaskOptions { limit, fewshot, seed, chat };
        let mut samples = self.samples.as_deref().map(SampleFile::create).transpose()?;
        let mut scores = Vec::new();
        for task in tasks {
            bar.set_message(task.name.clone());
            bar.reset();
            let mut keep = |sample| samples.as_mut().map_or(Ok(()), |samples| samples.add(&sample));
            scores.push(tasks::run(task, source, options, &mut respondent, &mut keep)?);
        }
        bar.finish_and_clear();
        samples.map_or(Ok(()), SampleFile::finish)?;
        Ok(scores)
    }
}

impl TaskRecord {
    fn new(scores: &Scores) -> TaskRecord {
        let metrics = scores.metrics.iter();
        TaskRecord {
            task: scores.name.clone(),
            n: scores.metrics.first().map_or(0, |(_, mean)| mean.count),
            fewshot: scores.fewshot,
            metrics: metrics
                .map(|(name, Mean { value, stderr, count })| {
                    (name.clone(), Metric { value: *value, stderr: *stderr, questions: *count })
                })
                .collect(),
        }
    }
}

/// The tasks of all the names, each once.
fn chosen(names: &[String]) -> Result<Vec<Task>> {
    let mut seen = BTreeSet::new();
    let all = names.iter().map(|name| tasks::find(name)).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().filter(|task| seen.insert(task.name.clone())).collect())
}

/// A file of samples, beside its name until it is complete.
struct SampleFile<'a> {
    file: BufWriter<NamedTempFile>,
    path: &'a Path,
}

impl<'a> SampleFile<'a> {
    fn create(path: &'a Path) -> Result<SampleFile<'a>> {
        let folder = folder_of(path);
        let file = NamedTempFile::new_in(folder).map_err(|e| Error::io(folder, e))?;
        Ok(SampleFile { file: BufWriter::new(file), path })
    }

    fn add(&mut self, sample: &Value) -> Result<()> {
        writeln!(self.file, "{sample}").map_err(|e| Error::io(self.path, e))
    }

    fn finish(self) -> Result<()> {
        let file = self.file.into_inner().map_err(|e| Error::io(self.path, e.into_error()))?;
        file.persist(self.path).map(|_| ()).map_err(|e| Error::io(self.path, e.error))
    }
}
