//! Benchmarks: how well a model answers questions whose answers are known, scored as lm-evaluation-harness scores them
//! (<https://github.com/EleutherAI/lm-evaluation-harness>), so that figures compare.
//!
//! 1. [`definition`]: a task's TOML, or a shipped one, says what to ask ([`find`]).
//! 2. [`files`] finds the dataset, [`crate::corpus::rows`] reads it.
//! 3. [`question`] makes prompts of rows ([`template`]), with examples drawn as Python draws them ([`python_random`]).
//! 4. A [`Respondent`] says how likely texts are, or writes: [`model`].
//! 5. [`scoring`] and [`extract`] judge, [`results`] reports.
//!
//! Downloads nothing, and runs no code of a dataset or a task: templates and regular expressions are all that a task has.

pub mod definition;
pub mod extract;
pub mod files;
pub mod model;
pub mod python_random;
pub mod question;
pub mod results;
pub mod scoring;
pub mod template;

use serde_json::{Value as Json, json};

pub use self::definition::{Task, find, shipped};
pub use self::files::Source;
pub use self::results::Scores;

use self::definition::{Form, Generate, MetricName};
use self::extract::Extractor;
use self::question::{Asker, Chat, Pair, Question, Right};
use self::scoring::Likelihood;
use crate::corpus::rows::DataTable;
use crate::error::Result;

/// What is examined: a model, or in tests a table of answers.
pub trait Respondent {
    /// Makes one text of a conversation of (role, content), up to where the assistant's next turn begins.
    fn chat(&self, messages: &[(&str, &str)]) -> Result<String>;
    /// The likelihoods of every question's pairs.
    fn likelihoods(&mut self, questions: &[&[Pair]]) -> Result<Vec<Vec<Likelihood>>>;
    /// What the model writes after each context, always taking the likeliest token, up to where `how` ends it.
    fn write(&mut self, contexts: &[&str], how: &Generate) -> Result<Vec<String>>;
}

/// How tasks are run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The first so many questions; all where it is not said.
    pub limit: Option<usize>,
    /// Examples before each question; as the task says, where it is not said.
    pub fewshot: Option<usize>,
    /// Of the draw of examples.
    pub seed: u64,
    /// Whether prompts are conversations, through the model's chat template.
    pub chat: bool,
}

/// Asks a task's questions and scores the answers; `keep` is given a JSON object for each question.
///
/// # Errors
/// Data that is missing or broken; what the respondent fails at.
pub fn run(
    task: &Task,
    source: &Source,
    options: Options,
    respondent: &mut dyn Respondent,
    keep: &mut dyn FnMut(Json) -> Result<()>,
) -> Result<Scores> {
    let fewshot = shots(task, options);
    let questions = questions(task, source, options, fewshot, respondent)?;
    let answers = match &task.definition.form {
        Form::Generate(how) => written(&questions, how, respondent)?,
        _ => chosen(&questions, &task.definition.metrics, respondent)?,
    };
    let names =
        answers.first().map(|answer| answer.scores.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let mean = |(i, name): (usize, String)| {
        let scores: Vec<f64> = answers.iter().map(|answer| answer.scores[i].1).collect();
        (name, scoring::mean(&scores))
    };
    let metrics = names.unwrap_or_default().into_iter().enumerate().map(mean).collect();
    for (row, answer) in answers.iter().enumerate() {
        keep(answer.sample(&task.name, row))?;
    }
    Ok(Scores { name: task.name.clone(), fewshot, metrics })
}

/// How many examples stand before a question. A task whose prompt has its own takes no others, whatever the user says.
fn shots(task: &Task, options: Options) -> usize {
    let fewshot = &task.definition.fewshot;
    if fewshot.forbidden { 0 } else { options.fewshot.unwrap_or(fewshot.default) }
}

fn questions(
    task: &Task,
    source: &Source,
    options: Options,
    fewshot: usize,
    respondent: &dyn Respondent,
) -> Result<Vec<Question>> {
    let table = DataTable::read(&source.files(task, &task.definition.split)?)?;
    let examples = match fewshot {
        0 => DataTable::default(),
        _ => DataTable::read(&source.files(task, task.fewshot_split())?)?,
    };
    let chat: Chat = &|messages| respondent.chat(messages);
    let mut asker = Asker::new(task, &table, &examples, fewshot, options.seed, options.chat.then_some(chat))?;
    let count = options.limit.unwrap_or(usize::MAX).min(table.rows.len());
    (0..count).map(|row| asker.question(row)).collect()
}

/// A question's answer, judged.
struct Answer {
    scores: Vec<(String, f64)>,
    details: Json,
}

impl Answer {
    fn sample(&self, task: &str, row: usize) -> Json {
        let scores: serde_json::Map<_, _> =
            self.scores.iter().map(|(name, score)| (name.clone(), json!(score))).collect();
        let mut sample = json!({ "task": task, "question": row, "scores": scores });
        if let (Some(sample), Json::Object(details)) = (sample.as_object_mut(), self.details.clone()) {
            sample.extend(details);
        }
        sample
    }
}

fn chosen(
    questions: &[Question],
    metrics: &[MetricName],
    respondent: &mut dyn Respondent,
) -> Result<Vec<Answer>> {
    let parts: Vec<_> = questions
        .iter()
        .filter_map(|question| match question {
            Question::Choices { pairs, choices, right } => Some((pairs, choices, right)),
            Question::Text { .. } => None,
        })
        .collect();
    let asked: Vec<&[Pair]> = parts.iter().map(|(pairs, ..)| pairs.as_slice()).collect();
    let said = respondent.likelihoods(&asked)?;
    Ok(parts
        .iter()
        .zip(&said)
        .map(|((pairs, choices, right), said)| judge(pairs, choices, right, said, metrics))
        .collect())
}

fn judge(
    pairs: &[Pair],
    choices: &[String],
    right: &Right,
    said: &[Likelihood],
    metrics: &[MetricName],
) -> Answer {
    let score = |metric: MetricName| match right {
        Right::Some(labels) => scoring::true_share(said, labels),
        Right::One(right) => f64::from(match metric {
            MetricName::Acc => scoring::likeliest(said) == *right,
            MetricName::AccNorm => scoring::likeliest_per_character(said, choices) == *right,
            MetricName::AccBytes => scoring::likeliest_per_byte(said, choices) == *right,
            MetricName::ExactMatch => said[*right].greedy,
        }),
    };
    let choice = |(pair, said): (&Pair, &Likelihood)| {
        json!({
            "context": pair.context, "continuation": pair.continuation,
            "loglikelihood": said.sum, "greedy": said.greedy,
        })
    };
    let right = match right {
        Right::One(right) => json!(right),
        Right::Some(labels) => json!(labels),
    };
    Answer {
        scores: metrics.iter().map(|&metric| (metric.name().to_owned(), score(metric))).collect(),
        details: json!({
            "choices": pairs.iter().zip(said).map(choice).collect::<Vec<_>>(),
            "chosen": scoring::likeliest(said),
            "right": right,
        }),
    }
}

fn written(questions: &[Question], how: &Generate, respondent: &mut dyn Respondent) -> Result<Vec<Answer>> {
    let extractor = Extractor::new(how)?;
    let parts: Vec<_> = questions
        .iter()
        .filter_map(|question| match question {
            Question::Text { context, target } => Some((context.as_str(), target.as_str())),
            Question::Choices { .. } => None,
        })
        .collect();
    let contexts: Vec<&str> = parts.iter().map(|(context, _)| *context).collect();
    let written = respondent.write(&contexts, how)?;
    let judge = |((context, target), written): (&(&str, &str), &String)| {
        let found = extractor.compare(written, target);
        let scores = found.iter().map(|(name, _, right)| (format!("exact_match,{name}"), f64::from(*right)));
        let answers: serde_json::Map<_, _> =
            found.iter().map(|(name, answer, _)| (name.to_string(), json!(answer))).collect();
        Answer {
            scores: scores.collect(),
            details: json!({ "context": context, "written": written, "answers": answers, "target": target }),
        }
    };
    Ok(parts.iter().zip(&written).map(judge).collect())
}
