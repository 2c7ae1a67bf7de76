//! From a row to what the model is asked: the prompt with its examples, in text or as a conversation, and what is scored
//! after it. As lm-evaluation-harness builds them (`fewshot_context` and `construct_requests` in `lm_eval/api/task.py`).

use super::definition::{Fewshot, Form, Sampler, Task};
use super::python_random::PythonRandom;
use super::template::{Templates, wrong};
use crate::corpus::rows::{DataTable, Row, RowLocation};
use crate::error::{Error, Result};

/// A continuation to be scored after a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What stands before it; not scored.
    pub context: String,
    /// What is scored.
    pub continuation: String,
}

/// A row, as the model is asked it.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Log-likelihoods are asked for.
    Choices {
        /// One for each choice.
        pairs: Vec<Pair>,
        /// The choices, without delimiters.
        choices: Vec<String>,
        /// What is right.
        right: Right,
    },
    /// A text is asked for.
    Text {
        /// What it continues.
        context: String,
        /// What it is compared with.
        target: String,
    },
}

/// What is right of several choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// The one at this place.
    One(usize),
    /// Those marked.
    Some(Vec<bool>),
}

/// Makes one text of a conversation of (role, content), up to where the assistant's next turn begins.
pub type Chat<'a> = &'a dyn Fn(&[(&str, &str)]) -> Result<String>;

/// Turns the rows of a task into questions.
pub struct Asker<'a> {
    task: &'a Task,
    templates: Templates,
    table: &'a DataTable,
    examples: &'a DataTable,
    count: usize,
    random: PythonRandom,
    description: String,
    chat: Option<Chat<'a>>,
}

/// A turn of the prompt: what is asked, and what is answered.
type Example = (String, String);

impl<'a> Asker<'a> {
    /// With `count` examples from `examples` before each question.
    ///
    /// # Errors
    /// Fewer rows than examples; a description that does not render.
    pub fn new(
        task: &'a Task,
        table: &'a DataTable,
        examples: &'a DataTable,
        count: usize,
        seed: u64,
        chat: Option<Chat<'a>>,
    ) -> Result<Asker<'a>> {
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
        Ok(Asker { task, templates, table, examples, count, random, description, chat })
    }

    /// The question of a row. Rows must be asked for in order: each draws its examples.
    ///
    /// # Errors
    /// A row that lacks a field, or has one of the wrong kind.
    pub fn question(&mut self, row: usize) -> Result<Question> {
        let examples = self.draw(row)?;
        let (fields, place) = (&self.table.rows[row], self.table.place(row));
        match &self.task.definition.form {
            Form::MultipleChoice { context, choices, answer } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let right = self.templates.index("answer", answer, fields, place, choices.len())?;
                self.choose(&examples, context, fields, place, choices, Right::One(right))
            }
            Form::TrueShare { context, choices, labels } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let labels = self.templates.labels("labels", labels, fields, place)?;
                if labels.len() != choices.len() {
                    return Err(wrong(place, "labels", &format!("{} labels", choices.len()), labels.len()));
                }
                self.choose(&examples, context, fields, place, choices, Right::Some(labels))
            }
            Form::Partial { .. } => self.complete(&examples, fields, place),
            Form::Generate(generate) => Ok(Question::Text {
                context: self
                    .prompt(&examples, &self.templates.text("context", &generate.context, fields, place)?)?,
                target: self.templates.text("target", &generate.target, fields, place)?,
            }),
        }
    }

    fn choose(
        &self,
        examples: &[Example],
        context: &str,
        fields: &Row,
        place: RowLocation,
        choices: Vec<String>,
        right: Right,
    ) -> Result<Question> {
        let context = self.prompt(examples, &self.templates.text("context", context, fields, place)?)?;
        let pair = |choice: &String| Pair { context: context.clone(), continuation: self.delimited(choice) };
        Ok(Question::Choices { pairs: choices.iter().map(pair).collect(), choices, right })
    }

    /// One continuation after several contexts ([`Form::Partial`]).
    fn complete(&self, examples: &[Example], fields: &Row, place: RowLocation) -> Result<Question> {
        let (contexts, right, continuation) = self.partial(fields, place)?;
        let pair = |context: &String| {
            Ok(Pair { context: self.prompt(examples, context)?, continuation: self.delimited(&continuation) })
        };
        let pairs = contexts.iter().map(pair).collect::<Result<_>>()?;
        Ok(Question::Choices { pairs, choices: contexts, right: Right::One(right) })
    }

    fn partial(&self, fields: &Row, place: RowLocation) -> Result<(Vec<String>, usize, String)> {
        let Form::Partial { contexts, continuation, answer } = &self.task.definition.form else {
            unreachable!("asked for the partial form alone")
        };
        let contexts = self.templates.texts("contexts", contexts, fields, place)?;
        let right = self.templates.index("answer", answer, fields, place, contexts.len())?;
        Ok((contexts, right, self.templates.text("continuation", continuation, fields, place)?))
    }

    /// What is scored: after a chat template, the answer begins its turn, and no delimiter stands before it.
    fn delimited(&self, continuation: &str) -> String {
        let delimiter = if self.chat.is_some() { "" } else { &self.task.definition.target_delimiter };
        format!("{delimiter}{continuation}")
    }

    /// The examples of a row's prompt.
    fn draw(&mut self, row: usize) -> Result<Vec<Example>> {
        if self.count == 0 {
            return Ok(vec![]);
        }
        let Fewshot { sampler, skips_itself, .. } = self.task.definition.fewshot;
        let drawn = match sampler {
            Sampler::First => (0..self.count).collect(),
            Sampler::Random if skips_itself => self.sample_others(row),
            Sampler::Random => self.random.sample(self.examples.rows.len(), self.count),
        };
        drawn.into_iter().map(|drawn| self.example(drawn)).collect()
    }

    /// Draws one more than needed, and drops those equal to the row; draws from the others where too few are left.
    fn sample_others(&mut self, row: usize) -> Vec<usize> {
        let (all, row) = (&self.examples.rows, &self.table.rows[row]);
        let mut drawn = self.random.sample(all.len(), self.count + 1);
        drawn.retain(|&each| all[each] != *row);
        drawn.truncate(self.count);
        if drawn.len() < self.count {
            let others: Vec<usize> = (0..all.len()).filter(|&each| all[each] != *row).collect();
            let count = self.count.min(others.len());
            drawn = self.random.sample(others.len(), count).into_iter().map(|each| others[each]).collect();
        }
        drawn
    }

    fn example(&self, row: usize) -> Result<Example> {
        let (fields, place) = (&self.examples.rows[row], self.examples.place(row));
        let text = |key: &str, template: &str| self.templates.text(key, template, fields, place);
        match &self.task.definition.form {
            Form::MultipleChoice { context, choices, answer } => {
                let mut choices = self.templates.texts("choices", choices, fields, place)?;
                let right = self.templates.index("answer", answer, fields, place, choices.len())?;
                Ok((text("context", context)?, choices.swap_remove(right)))
            }
            Form::Partial { .. } => {
                let (mut contexts, right, continuation) = self.partial(fields, place)?;
                Ok((contexts.swap_remove(right), continuation))
            }
            Form::TrueShare { context, choices, labels } => {
                let choices = self.templates.texts("choices", choices, fields, place)?;
                let labels = self.templates.labels("labels", labels, fields, place)?;
                let right = choices.into_iter().zip(labels).find(|(_, label)| *label);
                let right = right.ok_or_else(|| wrong(place, "labels", "a true choice", "none"))?;
                Ok((text("context", context)?, right.0))
            }
            Form::Generate(generate) => {
                Ok((text("context", &generate.context)?, text("target", &generate.target)?))
            }
        }
    }

    fn prompt(&self, examples: &[Example], question: &str) -> Result<String> {
        match self.chat {
            Some(chat) => self.conversation(examples, question, chat),
            None => {
                let definition = &self.task.definition;
                let (answer, after) = (&definition.target_delimiter, &definition.fewshot_delimiter);
                let shots = examples.iter().map(|(asked, said)| format!("{asked}{answer}{said}{after}"));
                Ok(format!("{}{}{question}", self.description, shots.collect::<String>()))
            }
        }
    }

    fn conversation(&self, examples: &[Example], question: &str, chat: Chat) -> Result<String> {
        let system = (!self.description.is_empty()).then_some(("system", self.description.as_str()));
        let turns = examples
            .iter()
            .flat_map(|(asked, said)| [("user", asked.as_str()), ("assistant", said.as_str())]);
        let messages: Vec<_> = system.into_iter().chain(turns).chain([("user", question)]).collect();
        chat(&messages)
    }
}
