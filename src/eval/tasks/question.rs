//! Turns a row into a question: the prompt with its examples, as plain text or as a conversation, and the texts to score
//! after it. The rules are those of lm-evaluation-harness (`fewshot_context` and `construct_requests` in
//! `lm_eval/api/task.py`).

use super::definition::{ExampleSampler, Fewshot, PartialForm, QuestionForm, Task};
use super::python_random::PythonRandom;
use super::template::{Templates, wrong};
use crate::corpus::rows::{DataTable, Row, RowLocation};
use crate::error::{Error, Result};

/// A continuation and its context. Only the continuation is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The text before the continuation.
    pub context: String,
    /// The text to score.
    pub continuation: String,
}

/// A question for the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Question {
    /// A question that needs log-likelihoods.
    Choices {
        /// One pair per choice.
        pairs: Vec<Pair>,
        /// The choices, without delimiters.
        choices: Vec<String>,
        /// The right choices.
        correct: CorrectAnswer,
    },
    /// A question that needs a text.
    Text {
        /// The text to continue.
        context: String,
        /// The text to compare with.
        target: String,
    },
}

/// The right ones of several choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorrectAnswer {
    /// The index of the only right choice.
    Index(usize),
    /// True for each right choice.
    Labels(Vec<bool>),
}

/// Renders a conversation of (role, content), up to the start of the assistant's next turn.
pub(crate) type Chat<'a> = &'a dyn Fn(&[(&str, &str)]) -> Result<String>;

/// Turns the rows of a task into questions.
pub(crate) struct QuestionBuilder<'a> {
    task: &'a Task,
    templates: Templates,
    table: &'a DataTable,
    examples: &'a DataTable,
    count: usize,
    random: PythonRandom,
    description: String,
    chat: Option<Chat<'a>>,
}

/// A question and its answer.
type Example = (String, String);

impl<'a> QuestionBuilder<'a> {
    /// Prepares questions from `table`, each with `count` examples from `examples`.
    ///
    /// # Errors
    /// Fewer rows than examples, a description that does not render.
    pub(crate) fn new(
        task: &'a Task,
        table: &'a DataTable,
        examples: &'a DataTable,
        count: usize,
        seed: u64,
        chat: Option<Chat<'a>>,
    ) -> Result<QuestionBuilder<'a>> {
        let templates = Templates::default();
        let title =
            task.subset.as_ref().map_or(task.definition.title.as_str(), |subset| subset.title.as_str());
        let variables = [("title", title), ("config", task.config().unwrap_or_default())];
        let description = templates.describe(&task.definition.description, &variables)?;
        let needed = count + usize::from(count > 0 && task.definition.fewshot.skips_itself);
        if needed > examples.rows.len() {
            return Err(Error::usage(
                format!(
                    "{}: {needed} examples are to be chosen from {} rows",
                    task.name,
                    examples.rows.len()
                ),
                "ask for fewer with --fewshot",
            ));
        }
        let random = PythonRandom::new(seed);
        Ok(QuestionBuilder { task, templates, table, examples, count, random, description, chat })
    }

    /// Builds the question of a row. Rows must come in order, because each draws its examples.
    ///
    /// # Errors
    /// A row with a missing field or one of the wrong type.
    pub(crate) fn question(&mut self, row: usize) -> Result<Question> {
        let examples = self.examples(row)?;
        let (fields, place) = (&self.table.rows[row], self.table.place(row));
        match &self.task.definition.form {
            QuestionForm::MultipleChoice { context, choices, answer } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let right = self.templates.index("answer", answer, fields, place, choices.len())?;
                self.choose(&examples, context, fields, place, choices, CorrectAnswer::Index(right))
            }
            QuestionForm::TrueShare { context, choices, labels } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let labels = self.templates.labels("labels", labels, fields, place)?;
                if labels.len() != choices.len() {
                    return Err(wrong(place, "labels", &format!("{} labels", choices.len()), labels.len()));
                }
                self.choose(&examples, context, fields, place, choices, CorrectAnswer::Labels(labels))
            }
            QuestionForm::Partial(form) => self.complete(&examples, form, fields, place),
            QuestionForm::Generate(generate) => {
                let question = self.templates.text("context", &generate.context, fields, place)?;
                let context = self.prompt(&examples, &question)?;
                let target = self.templates.text("target", &generate.target, fields, place)?;
                Ok(Question::Text { context, target })
            }
        }
    }

    fn choose(
        &self,
        examples: &[Example],
        context: &str,
        fields: &Row,
        place: RowLocation,
        choices: Vec<String>,
        correct: CorrectAnswer,
    ) -> Result<Question> {
        let context = self.prompt(examples, &self.templates.text("context", context, fields, place)?)?;
        let continuations = choices.iter().map(|choice| self.delimited(choice));
        let pairs =
            continuations.map(|continuation| Pair { context: context.clone(), continuation }).collect();
        Ok(Question::Choices { pairs, choices, correct })
    }

    /// Builds a question with one continuation after several contexts ([`QuestionForm::Partial`]).
    fn complete(
        &self,
        examples: &[Example],
        form: &PartialForm,
        fields: &Row,
        place: RowLocation,
    ) -> Result<Question> {
        let (contexts, right, continuation) = self.partial(form, fields, place)?;
        let continuation = self.delimited(&continuation);
        let mut pairs = Vec::with_capacity(contexts.len());
        for context in &contexts {
            pairs.push(Pair { context: self.prompt(examples, context)?, continuation: continuation.clone() });
        }
        Ok(Question::Choices { pairs, choices: contexts, correct: CorrectAnswer::Index(right) })
    }

    /// The contexts of a row, the index of the right one, and the continuation.
    fn partial(
        &self,
        form: &PartialForm,
        fields: &Row,
        place: RowLocation,
    ) -> Result<(Vec<String>, usize, String)> {
        let contexts = self.templates.texts("contexts", &form.contexts, fields, place)?;
        let right = self.templates.index("answer", &form.answer, fields, place, contexts.len())?;
        Ok((contexts, right, self.templates.text("continuation", &form.continuation, fields, place)?))
    }

    /// The continuation after its delimiter. In a conversation there is none: the answer begins a turn.
    fn delimited(&self, continuation: &str) -> String {
        let delimiter = if self.chat.is_some() { "" } else { &self.task.definition.target_delimiter };
        format!("{delimiter}{continuation}")
    }

    fn examples(&mut self, row: usize) -> Result<Vec<Example>> {
        if self.count == 0 {
            return Ok(vec![]);
        }
        let Fewshot { sampler, skips_itself, .. } = self.task.definition.fewshot;
        let rows = match sampler {
            ExampleSampler::First => (0..self.count).collect(),
            ExampleSampler::Random if skips_itself => self.sample_others(row),
            ExampleSampler::Random => self.random.sample(self.examples.rows.len(), self.count),
        };
        rows.into_iter().map(|row| self.example(row)).collect()
    }

    /// Draws one more example than needed and drops those equal to the row. If too few remain, draws again from the other
    /// rows.
    fn sample_others(&mut self, row: usize) -> Vec<usize> {
        let all = &self.examples.rows;
        let row = &self.table.rows[row];
        let mut sample = self.random.sample(all.len(), self.count + 1);
        sample.retain(|&index| all[index] != *row);
        sample.truncate(self.count);
        if sample.len() < self.count {
            let others: Vec<usize> = (0..all.len()).filter(|&index| all[index] != *row).collect();
            let count = self.count.min(others.len());
            sample = self.random.sample(others.len(), count).into_iter().map(|index| others[index]).collect();
        }
        sample
    }

    fn example(&self, row: usize) -> Result<Example> {
        let (fields, place) = (&self.examples.rows[row], self.examples.place(row));
        let text = |key: &str, template: &str| self.templates.text(key, template, fields, place);
        match &self.task.definition.form {
            QuestionForm::MultipleChoice { context, choices, answer } => {
                let mut choices = self.templates.texts("choices", choices, fields, place)?;
                let right = self.templates.index("answer", answer, fields, place, choices.len())?;
                Ok((text("context", context)?, choices.swap_remove(right)))
            }
            QuestionForm::Partial(form) => {
                let (mut contexts, right, continuation) = self.partial(form, fields, place)?;
                Ok((contexts.swap_remove(right), continuation))
            }
            QuestionForm::TrueShare { context, choices, labels } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let labels = self.templates.labels("labels", labels, fields, place)?;
                let right = choices.into_iter().zip(labels).find(|(_, label)| *label);
                let (right, _) = right.ok_or_else(|| wrong(place, "labels", "a true choice", "none"))?;
                Ok((text("context", context)?, right))
            }
            QuestionForm::Generate(generate) => {
                Ok((text("context", &generate.context)?, text("target", &generate.target)?))
            }
        }
    }

    fn prompt(&self, examples: &[Example], question: &str) -> Result<String> {
        if let Some(chat) = self.chat {
            return self.conversation(examples, question, chat);
        }
        let definition = &self.task.definition;
        let mut prompt = self.description.clone();
        for (question, answer) in examples {
            prompt += question;
            prompt += &definition.target_delimiter;
            prompt += answer;
            prompt += &definition.fewshot_delimiter;
        }
        Ok(prompt + question)
    }

    fn conversation(&self, examples: &[Example], question: &str, chat: Chat) -> Result<String> {
        let mut messages = Vec::new();
        if !self.description.is_empty() {
            messages.push(("system", self.description.as_str()));
        }
        for (question, answer) in examples {
            messages.push(("user", question.as_str()));
            messages.push(("assistant", answer.as_str()));
        }
        messages.push(("user", question));
        chat(&messages)
    }
}
