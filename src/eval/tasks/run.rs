//! Runs a task: asks its questions, scores the answers, and takes their means.

use serde_json::{Map, Value as Json, json};

use super::definition::{Generate, MetricName, QuestionForm, Task};
use super::extract::Extractor;
use super::files::DatasetLocation;
use super::question::{Chat, CorrectAnswer, Pair, Question, QuestionBuilder};
use super::respondent::Respondent;
use super::results::Scores;
use super::scoring::{self, Likelihood, Mean};
use crate::corpus::rows::DataTable;
use crate::error::Result;

/// The settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct TaskOptions {
    /// The number of questions to ask; `None` for all.
    pub limit: Option<usize>,
    /// The number of examples before each question; `None` for the task's default.
    pub fewshot: Option<usize>,
    /// The seed of the choice of examples.
    pub seed: u64,
    /// True if prompts are conversations in the model's chat template.
    pub chat: bool,
}

/// Runs a task. `keep` gets a JSON object for each question.
///
/// # Errors
/// Missing or broken data, errors of the respondent and of `keep`.
pub fn run(
    task: &Task,
    data: &DatasetLocation,
    options: TaskOptions,
    respondent: &mut dyn Respondent,
    keep: &mut dyn FnMut(Json) -> Result<()>,
) -> Result<Scores> {
    let fewshot = shots(task, options);
    let questions = questions(task, data, options, fewshot, respondent)?;
    let answers = match &task.definition.form {
        QuestionForm::Generate(settings) => text_answers(&questions, settings, respondent)?,
        _ => choice_answers(&questions, &task.definition.metrics, respondent)?,
    };
    let metrics = means(&answers);
    for (row, answer) in answers.into_iter().enumerate() {
        keep(answer.sample(&task.name, row))?;
    }
    Ok(Scores { name: task.name.clone(), fewshot, metrics })
}

/// The number of examples before each question. A task with its own examples takes no others.
fn shots(task: &Task, options: TaskOptions) -> usize {
    let fewshot = &task.definition.fewshot;
    if fewshot.forbidden { 0 } else { options.fewshot.unwrap_or(fewshot.default) }
}

fn questions(
    task: &Task,
    data: &DatasetLocation,
    options: TaskOptions,
    fewshot: usize,
    respondent: &dyn Respondent,
) -> Result<Vec<Question>> {
    let table = DataTable::read(&data.files(task, &task.definition.split)?)?;
    let examples = if fewshot == 0 {
        DataTable::default()
    } else {
        DataTable::read(&data.files(task, task.fewshot_split())?)?
    };
    let chat: Chat = &|messages| respondent.chat(messages);
    let chat = options.chat.then_some(chat);
    let mut builder = QuestionBuilder::new(task, &table, &examples, fewshot, options.seed, chat)?;
    let count = options.limit.unwrap_or(usize::MAX).min(table.rows.len());
    (0..count).map(|row| builder.question(row)).collect()
}

fn means(answers: &[Answer]) -> Vec<(String, Mean)> {
    let Some(first) = answers.first() else { return vec![] };
    let mut means = Vec::new();
    for (metric, (name, _)) in first.scores.iter().enumerate() {
        let scores: Vec<f64> = answers.iter().map(|answer| answer.scores[metric].1).collect();
        means.push((name.clone(), scoring::mean(&scores)));
    }
    means
}

/// The scored answer to a question.
struct Answer {
    scores: Vec<(String, f64)>,
    /// Further fields of the sample.
    details: Map<String, Json>,
}

impl Answer {
    fn sample(self, task: &str, row: usize) -> Json {
        let scores: Map<_, _> = self.scores.into_iter().map(|(name, score)| (name, json!(score))).collect();
        let mut sample = Map::new();
        sample.insert("task".into(), json!(task));
        sample.insert("question".into(), json!(row));
        sample.insert("scores".into(), scores.into());
        sample.extend(self.details);
        sample.into()
    }
}

fn choice_answers(
    questions: &[Question],
    metrics: &[MetricName],
    respondent: &mut dyn Respondent,
) -> Result<Vec<Answer>> {
    let mut choice_questions = Vec::new();
    let mut requests = Vec::new();
    for question in questions {
        if let Question::Choices { pairs, choices, correct } = question {
            choice_questions.push((pairs, choices, correct));
            requests.push(pairs.as_slice());
        }
    }
    let likelihoods = respondent.likelihoods(&requests)?;
    let answers = choice_questions.into_iter().zip(&likelihoods);
    Ok(answers
        .map(|((pairs, choices, correct), said)| judge(pairs, choices, correct, said, metrics))
        .collect())
}

fn judge(
    pairs: &[Pair],
    choices: &[String],
    correct: &CorrectAnswer,
    likelihoods: &[Likelihood],
    metrics: &[MetricName],
) -> Answer {
    let scores = metrics
        .iter()
        .map(|metric| (metric.name().to_owned(), choice_score(*metric, choices, correct, likelihoods)));
    let choices: Vec<Json> = pairs.iter().zip(likelihoods).map(choice_details).collect();
    let right = match correct {
        CorrectAnswer::Index(index) => json!(index),
        CorrectAnswer::Labels(labels) => json!(labels),
    };
    let details = [
        ("choices".to_owned(), json!(choices)),
        ("chosen".to_owned(), json!(scoring::likeliest(likelihoods))),
        ("right".to_owned(), right),
    ];
    Answer { scores: scores.collect(), details: details.into_iter().collect() }
}

fn choice_score(
    metric: MetricName,
    choices: &[String],
    correct: &CorrectAnswer,
    likelihoods: &[Likelihood],
) -> f64 {
    let right = match correct {
        CorrectAnswer::Labels(labels) => return scoring::true_share(likelihoods, labels),
        CorrectAnswer::Index(index) => *index,
    };
    f64::from(match metric {
        MetricName::Acc => scoring::likeliest(likelihoods) == right,
        MetricName::AccNorm => scoring::likeliest_per_character(likelihoods, choices) == right,
        MetricName::AccBytes => scoring::likeliest_per_byte(likelihoods, choices) == right,
        MetricName::ExactMatch => likelihoods[right].greedy,
    })
}

fn choice_details((pair, likelihood): (&Pair, &Likelihood)) -> Json {
    json!({
        "context": pair.context, "continuation": pair.continuation,
        "loglikelihood": likelihood.sum, "greedy": likelihood.greedy,
    })
}

fn text_answers(
    questions: &[Question],
    settings: &Generate,
    respondent: &mut dyn Respondent,
) -> Result<Vec<Answer>> {
    let extractor = Extractor::new(settings)?;
    let mut contexts = Vec::new();
    let mut targets = Vec::new();
    for question in questions {
        if let Question::Text { context, target } = question {
            contexts.push(context.as_str());
            targets.push(target.as_str());
        }
    }
    let texts = respondent.write(&contexts, settings)?;
    let mut answers = Vec::with_capacity(texts.len());
    for ((context, target), text) in contexts.iter().zip(targets).zip(&texts) {
        answers.push(judge_text(&extractor, context, target, text)?);
    }
    Ok(answers)
}

fn judge_text(extractor: &Extractor, context: &str, target: &str, text: &str) -> Result<Answer> {
    let mut scores = Vec::new();
    let mut answers = Map::new();
    for (filter, answer, right) in extractor.compare(text, target)? {
        scores.push((format!("exact_match,{filter}"), f64::from(right)));
        answers.insert(filter.to_owned(), json!(answer));
    }
    let details = [
        ("context".to_owned(), json!(context)),
        ("written".to_owned(), json!(text)),
        ("answers".to_owned(), answers.into()),
        ("target".to_owned(), json!(target)),
    ];
    Ok(Answer { scores, details: details.into_iter().collect() })
}
