//! Task definitions: the dataset, the prompts and the scores of a benchmark. They are read from TOML (`tasks/README.md`
//! explains the keys); the shipped ones are embedded in the binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::io::read_text;

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

/// The definition of one benchmark.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The name for `--tasks`.
    pub name: String,
    /// A title of one line.
    pub title: String,
    /// The hub's id of the dataset, `org/name`.
    pub dataset: String,
    /// The configuration of the dataset, if there are several.
    pub config: Option<String>,
    /// The split with the questions.
    pub split: String,
    /// The metrics to report, in this order.
    pub metrics: Vec<MetricName>,
    /// A template over `title` and `config`, for the start of every prompt.
    #[serde(default)]
    pub description: String,
    /// The text between a question and its answer.
    #[serde(default = "space")]
    pub target_delimiter: String,
    /// The text after an example.
    #[serde(default = "blank_line")]
    pub fewshot_delimiter: String,
    /// File names by split, to try before those of [`super::files`].
    #[serde(default)]
    pub files: BTreeMap<String, Vec<String>>,
    /// The examples before a question.
    #[serde(default)]
    pub fewshot: Fewshot,
    /// The parts of a collection.
    #[serde(default)]
    pub subsets: Vec<Subset>,
    /// The form of the questions.
    pub form: QuestionForm,
}

/// The choice of the examples before a question.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fewshot {
    /// The split of the examples; `None` for the split of the questions.
    pub split: Option<String>,
    /// The default number of examples.
    #[serde(default)]
    pub default: usize,
    /// The method of choice.
    #[serde(default)]
    pub sampler: ExampleSampler,
    /// True if one more example is drawn and the question itself is dropped from them.
    #[serde(default)]
    pub skips_itself: bool,
    /// True if the prompt has its own examples and takes no others.
    #[serde(default)]
    pub forbidden: bool,
}

/// The method to choose examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExampleSampler {
    /// Random ones for every question.
    #[default]
    Random,
    /// Always the first ones of the split.
    First,
}

/// One part of a collection: a configuration of the dataset.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The configuration; the part's name is `<name>_<config>`.
    pub config: String,
    /// The title for the description.
    pub title: String,
    /// The group of parts that it is averaged with, in addition to the whole collection.
    pub group: Option<String>,
}

/// The form of a question and of its score. `context`, `continuation` and `target` are templates, the other fields are
/// expressions.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuestionForm {
    /// Scores the likeliest of several continuations.
    MultipleChoice {
        /// The question.
        context: String,
        /// A list of texts.
        choices: String,
        /// The index of the right choice, from 0.
        answer: String,
    },
    /// Scores the context after which one continuation is likeliest.
    Partial(PartialForm),
    /// Scores the share of the true choices in the probability of all.
    TrueShare {
        /// The question.
        context: String,
        /// A list of texts.
        choices: String,
        /// A list with a number for each choice: 1 if it is true, else 0.
        labels: String,
    },
    /// Compares the model's own text with the target.
    Generate(Generate),
}

/// The fields of [`QuestionForm::Partial`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialForm {
    /// A list of texts.
    pub contexts: String,
    /// The text to score after each context.
    pub continuation: String,
    /// The index of the right context, from 0.
    pub answer: String,
}

/// The fields of [`QuestionForm::Generate`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// The question.
    pub context: String,
    /// The right answer, in the form of an example.
    pub target: String,
    /// Texts that end the answer.
    pub until: Vec<String>,
    /// The maximum number of tokens.
    pub max_tokens: usize,
    /// Regular expressions whose matches are removed from answer and target before the comparison.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// True if the comparison ignores case.
    #[serde(default)]
    pub ignore_case: bool,
    /// The filters that find the answer in the text; each has its own score.
    pub filters: Vec<Filter>,
}

/// A filter that finds the answer in a text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The suffix of the metric's name.
    pub name: String,
    /// A regular expression. The answer is its first group that is not empty, or the whole match if it has no groups.
    pub pattern: String,
    /// The match to take.
    pub select: Select,
}

/// The choice among several matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The first.
    First,
    /// The last.
    Last,
}

/// A metric of a question; [`super::scoring`] has the exact definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// The likeliest choice is the right one. For [`QuestionForm::TrueShare`]: the share.
    Acc,
    /// The likeliest choice per character is the right one.
    AccNorm,
    /// The likeliest choice per byte is the right one.
    AccBytes,
    /// The model's greedy text is the right one.
    ExactMatch,
}

impl MetricName {
    /// The name in definitions and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            MetricName::Acc => "acc",
            MetricName::AccNorm => "acc_norm",
            MetricName::AccBytes => "acc_bytes",
            MetricName::ExactMatch => "exact_match",
        }
    }
}

/// A task to run: a definition, or one part of a collection.
#[derive(Debug, Clone)]
pub struct Task {
    /// The name in the results.
    pub name: String,
    /// The definition.
    pub definition: Arc<Definition>,
    /// The part of a collection.
    pub subset: Option<Subset>,
}

impl Task {
    /// The configuration of the dataset.
    pub(crate) fn config(&self) -> Option<&str> {
        self.subset.as_ref().map(|subset| subset.config.as_str()).or(self.definition.config.as_deref())
    }

    /// The names of the averages that the task is part of: its group, and the collection.
    pub(crate) fn groups(&self) -> Vec<String> {
        let Some(subset) = &self.subset else { return vec![] };
        let name = &self.definition.name;
        subset.group.iter().map(|group| format!("{name}_{group}")).chain([name.clone()]).collect()
    }

    /// The split of the examples.
    pub(crate) fn fewshot_split(&self) -> &str {
        self.definition.fewshot.split.as_deref().unwrap_or(&self.definition.split)
    }
}

impl Definition {
    /// Parses a definition. `file` is its name in errors.
    ///
    /// # Errors
    /// Invalid TOML, unknown or missing keys, metrics that the form does not have, a name with characters other than
    /// letters, digits, `_`, `-` and `.`.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Definition> {
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
        if self.name.is_empty() || !self.name.chars().all(is_allowed_in_names) {
            return wrong("name", "letters, digits, '_', '-' and '.'", format!("{:?}", self.name));
        }
        if self.metrics.is_empty() {
            return wrong("metrics", "at least one metric", "none".into());
        }
        let known = self.form.metrics();
        if let Some(metric) = self.metrics.iter().find(|metric| !known.contains(metric)) {
            return wrong("metrics", "metrics of the task's form", metric.name().into());
        }
        Ok(())
    }

    /// The tasks to run: the definition itself, or each of its parts.
    pub(crate) fn tasks(self: &Arc<Self>) -> Vec<Task> {
        if self.subsets.is_empty() {
            return vec![Task { name: self.name.clone(), definition: Arc::clone(self), subset: None }];
        }
        let parts = self.subsets.iter().map(|subset| Task {
            name: format!("{}_{}", self.name, subset.config),
            definition: Arc::clone(self),
            subset: Some(subset.clone()),
        });
        parts.collect()
    }
}

impl QuestionForm {
    fn metrics(&self) -> &'static [MetricName] {
        use MetricName::*;
        match self {
            QuestionForm::MultipleChoice { .. } => &[Acc, AccNorm, AccBytes, ExactMatch],
            QuestionForm::Partial(_) => &[Acc, ExactMatch],
            QuestionForm::TrueShare { .. } => &[Acc],
            QuestionForm::Generate(_) => &[ExactMatch],
        }
    }
}

/// The shipped definitions.
pub(crate) fn shipped() -> Vec<Arc<Definition>> {
    let mut definitions = Vec::new();
    for text in SHIPPED {
        let definition = Definition::parse(Path::new("tasks/"), text).expect("a test parses all of them");
        definitions.push(Arc::new(definition));
    }
    definitions
}

/// Resolves a name: a shipped task, a collection, a group of its parts (`mmlu_stem`), one part (`mmlu_anatomy`), or the
/// path of a definition (`*.toml`).
///
/// # Errors
/// An unknown name; a file that cannot be read, or that [`Definition::parse`] refuses.
pub fn find(name: &str) -> Result<Vec<Task>> {
    if name.ends_with(".toml") {
        let text = read_text(Path::new(name))?;
        return Ok(Arc::new(Definition::parse(Path::new(name), &text)?).tasks());
    }
    let all = shipped().iter().flat_map(Definition::tasks).collect::<Vec<_>>();
    let found: Vec<_> =
        all.into_iter().filter(|t| t.name == name || t.groups().iter().any(|g| g == name)).collect();
    if found.is_empty() {
        return Err(Error::usage(
            format!("no task is called {name:?}"),
            "`llmc eval tasks --list` lists them; for a task of your own, give the path of its .toml",
        ));
    }
    Ok(found)
}

fn is_allowed_in_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
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
    fn names_resolve_to_tasks() {
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
