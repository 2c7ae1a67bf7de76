//! `llmc eval tasks`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::engine_args;
use crate::cli::numbers::{LIMIT, TOKENS, number};
use crate::error::Result;
use crate::eval::tasks;
use crate::eval::tasks::definition::Definition;
use crate::job::{AskTasks, Metric, TaskRecord};

/// Ask a model the questions of benchmarks and score its answers, as lm-evaluation-harness does
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval tasks org/name --tasks hellaswag,arc_easy --data datasets/ --limit 200
  llmc eval tasks model-w4a16 --tasks mmlu --fewshot 5 --samples answers.jsonl

Datasets are looked for in --data, or in the hub's cache; tasks/README.md says how to get and how to define them.")]
pub(crate) struct Arguments {
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
    #[arg(long, value_name = "N", value_parser = number(1..=LIMIT))]
    limit: Option<usize>,
    /// Examples before each question [default: as the task says]
    #[arg(long, value_name = "K", value_parser = number(0..=1000))]
    fewshot: Option<usize>,
    /// Seed of the draw of examples
    #[arg(long, value_name = "S", default_value_t = 1234)]
    seed: u64,
    /// Tokens that are worked on at a time [default: by the free memory]
    #[arg(long, value_name = "TOKENS", value_parser = number(1..=TOKENS))]
    batch: Option<usize>,
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
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let Some(model) = arguments.model.clone().filter(|_| !arguments.list) else { return list(context) };
    let job = AskTasks {
        model,
        tasks: arguments.tasks.clone(),
        data: arguments.data.clone(),
        limit: arguments.limit,
        fewshot: arguments.fewshot,
        seed: arguments.seed,
        batch: arguments.batch,
        chat: arguments.chat,
        samples: arguments.samples.clone(),
        engine: arguments.engine.engine(),
    };
    let record = job.run(context)?;
    context.print(|| table(&record.tasks), || json!(record))
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
    let line = |definition: &Definition| {
        let parts: Vec<_> = definition.subsets.iter().map(|part| &part.config).collect();
        json!({ "task": definition.name, "title": definition.title, "dataset": definition.dataset, "parts": parts })
    };
    context.print(text, || shipped.iter().map(|definition| line(definition)).collect())
}

/// A line for each metric.
fn table(tasks: &[TaskRecord]) -> String {
    let head = ["task", "n", "metric", "value"].map(str::to_owned);
    let rows: Vec<[String; 4]> = [head].into_iter().chain(tasks.iter().flat_map(rows)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [first, second, third] = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [task, n, metric, value] in &rows {
        writeln!(text, "{task:first$}  {n:>second$}  {metric:third$}  {value}").expect("a String takes all");
    }
    text
}

fn rows(task: &TaskRecord) -> Vec<[String; 4]> {
    let row = |(name, metric): (&String, &Metric)| {
        let stderr = metric.stderr.map_or(String::new(), |stderr| format!(" ± {stderr:.4}"));
        [
            task.task.clone(),
            metric.questions.to_string(),
            name.clone(),
            format!("{:.4}{stderr}", metric.value),
        ]
    };
    task.metrics.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, metrics: &[(&str, f64, Option<f64>, usize)]) -> TaskRecord {
        let metrics = metrics
            .iter()
            .map(|&(name, value, stderr, n)| (name.to_owned(), Metric { value, stderr, questions: n }));
        TaskRecord { task: name.into(), n: 4, fewshot: 0, metrics: metrics.collect() }
    }

    #[test]
    fn tables_line_up() {
        let piqa = record("piqa", &[("acc", 0.75, Some(0.25), 4)]);
        let longer = record("truthfulqa_mc1", &[("acc", 1.0, None, 1), ("acc_norm", 1.0, None, 1)]);
        assert_eq!(
            table(&[piqa, longer]),
            "task            n  metric    value\n\
             piqa            4  acc       0.7500 ± 0.2500\n\
             truthfulqa_mc1  1  acc       1.0000\n\
             truthfulqa_mc1  1  acc_norm  1.0000\n"
        );
    }
}
