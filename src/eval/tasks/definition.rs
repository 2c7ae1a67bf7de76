//! What a task is: which rows of which dataset become which prompt, what is scored, and how. Read from TOML; `tasks/README.md`
//! explains the keys, and the tasks that ship are embedded from there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The definitions that ship.
const SHIPPED: &[&str] = &[
    include_str!("../../../tasks/hellaswag.toml"),
    include_str!("../../../tasks/arc_easy.toml"),
    include_str!("../../../tasks/arc_challenge.toml"),
    include_str!("../../../tasks/piqa.toml"),
    include_str!("../../../tasks/winogrande.toml"),
    include_str!("../../../tasks/mmlu.toml"),
    include_str!("../../../tasks/ceval.toml"),
    include_str!("../../../tasks/cmmlu.toml"),
    include_str!("../../../tasks/truthfulqa_mc1.toml"),
    include_str!("../../../tasks/truthfulqa_mc2.toml"),
    include_str!("../../../tasks/gsm8k.toml"),
    include_str!("../../../tasks/toxigen.toml"),
];

/// One benchmark, as its TOML file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// What `--tasks` calls it.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// The hub's id of the dataset, `org/name`.
    pub dataset: String,
    /// The configuration of the dataset, where it has several.
    pub config: Option<String>,
    /// The split whose questions are asked.
    pub split: String,
    /// The metrics to report, in this order.
    pub metrics: Vec<MetricName>,
    /// A template over `title` and `config`: what stands before everything else.
    #[serde(default)]
    pub description: String,
    /// What stands between a question and its answer.
    #[serde(default = "space")]
    pub target_delimiter: String,
    /// What stands after an example.
    #[serde(default = "blank_line")]
    pub fewshot_delimiter: String,
    /// Names of files by split, beyond those that [`super::files`] looks for anyway.
    #[serde(default)]
    pub files: BTreeMap<String, Vec<String>>,
    /// Where examples come from.
    #[serde(default)]
    pub fewshot: Fewshot,
    /// The parts of a benchmark that is a collection.
    #[serde(default)]
    pub subsets: Vec<Subset>,
    /// How a row becomes a question.
    pub form: Form,
}

/// Where the examples before a question come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fewshot {
    /// The split to take them from; the split of the questions where it is not said.
    pub split: Option<String>,
    /// How many, where the user does not say.
    #[serde(default)]
    pub default: usize,
    /// How they are chosen.
    #[serde(default)]
    pub sampler: Sampler,
    /// Whether one more is drawn, and the question itself dropped from them.
    #[serde(default)]
    pub skips_itself: bool,
    /// Whether the prompt has its own examples, and takes no others.
    #[serde(default)]
    pub forbidden: bool,
}

/// How examples are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Drawn anew for every question.
    #[default]
    Random,
    /// The first ones of the split, always.
    First,
}

/// One part of a collection: a configuration of the dataset.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The configuration; the part is called `<name>_<config>`.
    pub config: String,
    /// What the description calls it.
    pub title: String,
    /// The part of the collection that it is averaged with, beside the whole.
    pub group: Option<String>,
}

/// How a row becomes a question, and what is scored. `context`, `continuation` and `target` are templates, the others
/// expressions.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// Which of several continuations is the likeliest.
    MultipleChoice {
        /// What is asked.
        context: String,
        /// A list of texts.
        choices: String,
        /// The place in it of the right one, from 0.
        answer: String,
    },
    /// After which of several contexts one continuation is the likeliest.
    Partial {
        /// A list of texts.
        contexts: String,
        /// What is scored after each.
        continuation: String,
        /// The place of the right context, from 0.
        answer: String,
    },
    /// How much of the probability of all the choices the true ones have.
    TrueShare {
        /// What is asked.
        context: String,
        /// A list of texts.
        choices: String,
        /// A list of as many numbers: 1 for a true choice.
        labels: String,
    },
    /// What the model writes, compared with a text.
    Generate(Generate),
}

/// How to let the model write, and how to compare what it wrote.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// What is asked.
    pub context: String,
    /// The right answer, as an example would give it.
    pub target: String,
    /// Texts that end the answer.
    pub until: Vec<String>,
    /// Tokens after which it ends anyway.
    pub max_tokens: usize,
    /// Regular expressions whose matches are left out of both texts before they are compared.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Whether capitals count as small letters.
    #[serde(default)]
    pub ignore_case: bool,
    /// How an answer is found in what was written; each filter is scored on its own.
    pub filters: Vec<Filter>,
}

/// Finds the answer in a text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// What the metric is called after.
    pub name: String,
    /// A regular expression: its first group that matched is the answer, or all of the match where it has none.
    pub pattern: String,
    /// Which match.
    pub select: Select,
}

/// Which of several matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The first.
    First,
    /// The last.
    Last,
}

/// What can be reported of a question. [`super::scoring`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// The likeliest choice is the right one; of [`Form::TrueShare`], the share.
    Acc,
    /// The likeliest per character is.
    AccNorm,
    /// The likeliest per byte is.
    AccBytes,
    /// The model would have written the right one itself, always taking the likeliest token.
    ExactMatch,
}

impl MetricName {
    /// As in the definitions and the results.
    pub fn name(self) -> &'static str {
        match self {
            MetricName::Acc => "acc",
            MetricName::AccNorm => "acc_norm",
            MetricName::AccBytes => "acc_bytes",
            MetricName::ExactMatch => "exact_match",
        }
    }
}

/// A definition, or one part of a collection: what is run at once.
#[derive(Debug, Clone)]
pub struct Task {
    /// What the results call it.
    pub name: String,
    /// Its definition.
    pub definition: Arc<Definition>,
    /// Which part, of a collection.
    pub subset: Option<Subset>,
}

impl Task {
    /// The configuration of the dataset.
    pub fn config(&self) -> Option<&str> {
        self.subset.as_ref().map(|subset| subset.config.as_str()).or(self.definition.config.as_deref())
    }

    /// The names of the averages that it is part of: of the collection, and of its group there.
    pub fn groups(&self) -> Vec<String> {
        let Some(subset) = &self.subset else { return vec![] };
        let name = &self.definition.name;
        subset.group.iter().map(|group| format!("{name}_{group}")).chain([name.clone()]).collect()
    }

    /// The split that examples come from.
    pub fn fewshot_split(&self) -> &str {
        self.definition.fewshot.split.as_deref().unwrap_or(&self.definition.split)
    }
}

impl Definition {
    /// Reads a definition. `file` is what errors call it.
    ///
    /// # Errors
    /// No TOML; unknown or missing keys; metrics that the form does not have; a name with characters that a file name
    /// cannot have.
    pub fn parse(file: &Path, text: &str) -> Result<Definition> {
        let definition: Definition = toml::from_str(text).map_err(|e| {
            let hint = "tasks/README.md explains every key of a definition";
            Error::malformed(file, "a task definition", e.to_string().trim_end(), hint)
        })?;
        definition.check(file)?;
        Ok(definition)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let wrong = |key: &str, expected: &str, found: String| {
            Err(Error::malformed_tensor(file, key, expected, found, "see tasks/README.md"))
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return wrong("name", "letters, digits, '_', '-' and '.'", format!("{:?}", self.name));
        }
        let known = self.form.metrics();
        match self.metrics.iter().find(|metric| !known.contains(metric)) {
            Some(metric) => wrong("metrics", "metrics of the task's form", metric.name().into()),
            None if self.metrics.is_empty() => wrong("metrics", "at least one metric", "none".into()),
            None => Ok(()),
        }
    }

    /// What is run: itself, or each of its parts.
    pub fn tasks(self: &Arc<Self>) -> Vec<Task> {
        let part = |subset: &Subset| Task {
            name: format!("{}_{}", self.name, subset.config),
            definition: Arc::clone(self),
            subset: Some(subset.clone()),
        };
        match self.subsets.as_slice() {
            [] => vec![Task { name: self.name.clone(), definition: Arc::clone(self), subset: None }],
            subsets => subsets.iter().map(part).collect(),
        }
    }
}

impl Form {
    fn metrics(&self) -> &'static [MetricName] {
        use MetricName::*;
        match self {
            Form::MultipleChoice { .. } => &[Acc, AccNorm, AccBytes, ExactMatch],
            Form::Partial { .. } => &[Acc, ExactMatch],
            Form::TrueShare { .. } => &[Acc],
            Form::Generate(_) => &[ExactMatch],
        }
    }
}

/// The definitions that ship.
pub fn shipped() -> Vec<Arc<Definition>> {
    let read = |text: &&str| Definition::parse(Path::new("tasks/"), text).expect("a test reads them all");
    SHIPPED.iter().map(read).map(Arc::new).collect()
}

/// The tasks that a name stands for: a shipped task, a collection, a group of its parts (`mmlu_stem`), one part
/// (`mmlu_anatomy`), or the path of a definition (`*.toml`).
///
/// # Errors
/// An unknown name; a file that cannot be read, or that [`Definition::parse`] refuses.
pub fn find(name: &str) -> Result<Vec<Task>> {
    if name.ends_with(".toml") {
        let text = std::fs::read_to_string(name).map_err(|e| Error::io(name, e))?;
        return Ok(Arc::new(Definition::parse(Path::new(name), &text)?).tasks());
    }
    let all = shipped().iter().flat_map(Definition::tasks).collect::<Vec<_>>();
    let found: Vec<_> =
        all.into_iter().filter(|t| t.name == name || t.groups().iter().any(|g| g == name)).collect();
    match found.is_empty() {
        true => Err(Error::usage(
            format!("no task is called {name:?}"),
            "`llmc eval tasks --list` names them; your own is given as the path of its .toml",
        )),
        false => Ok(found),
    }
}

fn space() -> String {
    " ".into()
}

fn blank_line() -> String {
    "\n\n".into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shipped_definitions_are_sound() {
        let all = shipped();
        let names: Vec<_> = all.iter().map(|definition| definition.name.as_str()).collect();
        assert_eq!(names.len(), 12);
        assert_eq!(all.iter().flat_map(Definition::tasks).count(), 9 + 57 + 52 + 67);
    }

    #[test]
    fn names_stand_for_tasks() {
        for (name, count) in
            [("hellaswag", 1), ("mmlu", 57), ("mmlu_stem", 19), ("mmlu_anatomy", 1), ("cmmlu", 67)]
        {
            assert_eq!(find(name).unwrap().len(), count, "{name}");
        }
        let anatomy = &find("mmlu_anatomy").unwrap()[0];
        assert_eq!((anatomy.config(), anatomy.fewshot_split()), (Some("anatomy"), "dev"));
        assert_eq!(anatomy.groups(), ["mmlu_stem", "mmlu"]);
        assert!(find("mmlu_nothing").unwrap_err().to_string().contains("mmlu_nothing"));
    }

    #[test]
    fn wrong_definitions_are_refused() {
        let text = include_str!("../../../tasks/piqa.toml");
        for (from, to, expected) in [
            ("name = \"piqa\"", "name = \"../piqa\"", "letters, digits"),
            ("\"acc_bytes\"", "\"bleu\"", "unknown variant"),
            ("[\"acc\", \"acc_norm\", \"acc_bytes\"]", "[]", "at least one"),
            ("answer =", "anser =", "anser"),
            ("split = \"validation\"", "", "missing field"),
        ] {
            let error = Definition::parse(Path::new("own.toml"), &text.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains("own.toml") && error.contains(expected), "{to}: {error}");
        }
    }
}
