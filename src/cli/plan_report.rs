//! The report of a plan: its tensors, the method, what it takes, and the engines that load the output.

use std::sync::Arc;

use indexmap::IndexSet;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::collapse::{self, Line};
use super::table::{self, Column, labelled, table};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::job::{engines, stays};
use crate::pipeline::{self, Estimate};
use crate::plan::{Engine, Plan, TensorPlan};

/// The width of the labels below the table.
const LABELS: usize = 10;

/// A plan and its estimated cost.
pub(crate) struct PlanReport<'a> {
    plan: &'a Plan,
    threads: usize,
    estimate: Option<Estimate>,
    engines: Vec<&'static str>,
    /// The parts of a cut model that stay, in words.
    stays: Option<String>,
}

impl PlanReport<'_> {
    /// Estimates the cost of a plan.
    pub(crate) fn new<'a>(plan: &'a Plan, checkpoint: &Arc<Checkpoint>) -> Result<PlanReport<'a>> {
        let threads = rayon::current_num_threads();
        let calibration = plan.request.recipe.calibration.as_ref();
        let tokens = calibration.map(|calibration| match calibration.statistics.is_empty() {
            true => calibration.samples.saturating_mul(calibration.seq_len),
            false => 0,
        });
        let estimate = tokens.map(|tokens| pipeline::estimate(plan, checkpoint, tokens, threads));
        let estimate = match plan.request.reads_text() {
            true => estimate.transpose()?,
            false => estimate.and_then(Result::ok), // a model whose layers alone are known
        };
        let engines = engines(plan, checkpoint).into_iter().map(Engine::name).collect();
        Ok(PlanReport { plan, threads, estimate, engines, stays: stays(checkpoint) })
    }

    fn memory(&self) -> u64 {
        self.estimate.map_or_else(|| pipeline::peak_memory(self.plan, self.threads), |cost| cost.memory)
    }

    /// The report for people; with `all`, a line for each tensor.
    pub(crate) fn text(&self, all: bool) -> String {
        let width = table::width();
        let (tensors, notes) = tensors(self.plan, all, width);
        let substituted = self.plan.tensors.iter().filter(|tensor| tensor.substituted).count();
        let marked = match substituted {
            0 => String::new(),
            count => format!("{count} tensors use a different scheme than requested (marked !)\n"),
        };
        format!("{tensors}\n{notes}{}{marked}\n{}", self.plan.summary(), self.facts(width))
    }

    /// The method, what it takes, and the engines that load the output.
    fn facts(&self, width: Option<usize>) -> String {
        let request = &self.plan.request;
        let method = (request.aim().is_some() || request.reshapes()).then(|| self.method());
        let memory = HumanBytes(self.memory());
        let memory = format!("about {memory} besides the mapped input, with {} threads", self.threads);
        let states = self.estimate.map(|cost| cost.disk).filter(|bytes| *bytes > 0);
        let states =
            states.map(|bytes| format!("about {} of hidden states beside the output", HumanBytes(bytes)));
        let facts = [
            ("stays", self.stays.clone()),
            ("method", method),
            ("memory", Some(memory)),
            ("disk", states),
            ("loads in", Some(self.engines())),
        ];
        let line = |(label, fact): (&str, Option<String>)| Some(labelled(label, LABELS, &fact?, width));
        facts.into_iter().filter_map(line).collect()
    }

    fn method(&self) -> String {
        let recipe = &self.plan.request.recipe;
        let on = match &recipe.calibration {
            None => ", without text".to_owned(),
            Some(calibration) if calibration.statistics.is_empty() => {
                let (samples, tokens) = (calibration.samples, calibration.seq_len);
                format!(", on {samples} sequences of {tokens} tokens")
            }
            Some(_) => ", from statistics of an earlier run".to_owned(),
        };
        format!("{}{on}", recipe.method_names())
    }

    fn engines(&self) -> String {
        if self.engines.is_empty() { "none that is known".to_owned() } else { self.engines.join(", ") }
    }

    /// The report for machines.
    pub(crate) fn json(&self) -> Value {
        let mut value = self.plan.json();
        value["peak_memory"] = json!(self.memory());
        value["engines"] = json!(self.engines);
        if let Some(stays) = &self.stays {
            value["stays"] = json!(stays);
        }
        if let Some(Estimate { disk, seconds, .. }) = self.estimate {
            value["hidden_states"] = json!(disk);
            value["estimated_seconds"] = json!(seconds);
        }
        value
    }
}

const COLUMNS: [Column; 7] = [
    Column::text("tensor"),
    Column::number(""),
    Column::number("shape"),
    Column::text("stored as"),
    Column::number("size").optional(),
    Column::number("bits/w"),
    Column::number("note"),
];

/// The table of tensors, and the notes on them, each once.
fn tensors(plan: &Plan, all: bool, width: Option<usize>) -> (String, String) {
    let lines = lines(plan, all);
    let mut notes: IndexSet<String> = IndexSet::new();
    let rows: Vec<Vec<String>> = lines.iter().map(|line| row(plan, line, &mut notes)).collect();
    let numbered = notes.iter().enumerate();
    let text: String =
        numbered.map(|(at, note)| labelled(&format!("{:>3}", at + 1), 5, note, width)).collect();
    let blank = if notes.is_empty() { "" } else { "\n" };
    (table(&COLUMNS, &rows, width), text + blank)
}

fn lines(plan: &Plan, all: bool) -> Vec<Line> {
    let name = |tensor: &TensorPlan| tensor.output.name.clone();
    if all {
        return collapse::each(plan.tensors.iter().map(name));
    }
    let key = |tensor: &TensorPlan| {
        let note = tensor.note.as_deref().map(collapse::without_numbers);
        (tensor.output.shape.clone(), tensor.stored(), tensor.bytes(), note, tensor.substituted)
    };
    collapse::collapse(plan.tensors.iter().map(|tensor| (name(tensor), key(tensor))))
}

fn row(plan: &Plan, line: &Line, notes: &mut IndexSet<String>) -> Vec<String> {
    let (count, first) = (line.members.len(), &plan.tensors[line.members[0]]);
    let note = first.note.as_deref().map(|note| match count {
        1 => note.to_owned(),
        _ => collapse::without_numbers(note),
    });
    let number = note.map_or(String::new(), |note| (notes.insert_full(note).0 + 1).to_string());
    let mark = if first.substituted { "! " } else { "" };
    vec![
        line.name.clone(),
        times(count),
        shape(&first.output.shape),
        first.stored(),
        HumanBytes(first.bytes().saturating_mul(count as u64)).to_string(),
        format!("{:.2}", first.bits_per_weight()),
        format!("{mark}{number}"),
    ]
}

/// `×30`, of more than one.
pub(crate) fn times(count: usize) -> String {
    if count == 1 { String::new() } else { format!("×{count}") }
}

/// `576x1536`.
pub(crate) fn shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
