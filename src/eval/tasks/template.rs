//! Evaluates the templates and expressions of a definition over the fields of a row: minijinja with Python's string methods
//! and the two filters that the shipped tasks need. A missing field is an error, never an empty text.

use std::time::Instant;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Error as TemplateError, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::pattern::Pattern;
use crate::corpus::rows::{Row, RowLocation};
use crate::error::{Error, Result};
use crate::jinja::{Failure, Sandbox};

/// Time of a regular expression for one unit of fuel. The only price that is not counted in steps: the `regex` crate
/// counts none.
const MICROSECONDS_PER_FUEL: u128 = 10;

/// The error of a row that does not fit a key of the task's definition.
pub(crate) fn wrong(place: RowLocation, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let what = format!("row {}, `{key}` of the task", place.row);
    let hint = "check that this is the task's dataset, configuration and split (llmc eval tasks --list)";
    Error::malformed_tensor(place.file, what, expected, found, hint)
}

/// The environment that evaluates a definition's templates and expressions.
pub struct Templates {
    sandbox: Sandbox,
}

impl Default for Templates {
    fn default() -> Self {
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let mut sandbox = Sandbox::new(syntax.expect("the delimiters are the usual ones"));
        sandbox.environment.set_undefined_behavior(UndefinedBehavior::Strict);
        sandbox.environment.add_filter("regex_replace", regex_replace);
        sandbox.environment.add_filter("index_of", index_of);
        Templates { sandbox }
    }
}

impl Templates {
    /// Renders a description; it can use only these variables.
    pub fn describe(&self, template: &str, variables: &[(&str, &str)]) -> Result<String> {
        self.sandbox.render(template, Value::from_pairs(variables.iter().copied())).map_err(|e| {
            Error::usage(format!("description of the task: {}", chain(&e)), "it can use `title` and `config`")
        })
    }

    /// Renders a template over a row.
    pub fn text(&self, key: &str, template: &str, row: &Row, place: RowLocation) -> Result<String> {
        self.sandbox
            .render(template, Value::from(Serde(row)))
            .map_err(|e| wrong(place, key, "a template that the row can fill", chain(&e)))
    }

    /// Evaluates an expression as a list of texts.
    pub fn texts(&self, key: &str, expression: &str, row: &Row, place: RowLocation) -> Result<Vec<String>> {
        self.list(key, expression, row, place)?
            .into_iter()
            .map(|item| match item {
                Json::String(text) => Ok(text),
                other => Err(wrong(place, key, "a list of texts", other)),
            })
            .collect()
    }

    /// Evaluates an expression as a list of 0 and 1.
    pub(crate) fn labels(
        &self,
        key: &str,
        expression: &str,
        row: &Row,
        place: RowLocation,
    ) -> Result<Vec<bool>> {
        self.list(key, expression, row, place)?
            .into_iter()
            .map(|item| match item.as_i64() {
                Some(0) => Ok(false),
                Some(1) => Ok(true),
                _ => Err(wrong(place, key, "a list of 0 and 1", item)),
            })
            .collect()
    }

    /// Evaluates an expression as an index below `count`.
    pub(crate) fn index(
        &self,
        key: &str,
        expression: &str,
        row: &Row,
        place: RowLocation,
        count: usize,
    ) -> Result<usize> {
        let value = self.evaluate(key, expression, row, place)?;
        let index =
            value.as_u64().and_then(|index| usize::try_from(index).ok()).filter(|&index| index < count);
        index.ok_or_else(|| wrong(place, key, &format!("a number from 0, below {count}"), value))
    }

    fn list(&self, key: &str, expression: &str, row: &Row, place: RowLocation) -> Result<Vec<Json>> {
        match self.evaluate(key, expression, row, place)? {
            Json::Array(items) if !items.is_empty() => Ok(items),
            other => Err(wrong(place, key, "a list that is not empty", other)),
        }
    }

    fn evaluate(&self, key: &str, expression: &str, row: &Row, place: RowLocation) -> Result<Json> {
        self.sandbox
            .evaluate(expression, Value::from(Serde(row)))
            .map_err(|e| wrong(place, key, "an expression that the row can fill", chain(&e)))
    }
}

/// Python's `re.sub(pattern, replacement, text)`.
fn regex_replace(
    state: &State,
    text: &str,
    pattern: &str,
    replacement: &str,
) -> Result<String, TemplateError> {
    let start = Instant::now();
    let replaced = Pattern::new(pattern).and_then(|pattern| pattern.replace_all(text, replacement));
    state.consume_fuel((start.elapsed().as_micros() / MICROSECONDS_PER_FUEL) as u64)?;
    replaced.map_err(invalid)
}

/// Python's `list.index(item)`.
fn index_of(list: Vec<Value>, item: Value) -> Result<usize, TemplateError> {
    let found = list.iter().position(|each| *each == item);
    found.ok_or_else(|| invalid("index_of: the list does not have this item".to_owned()))
}

fn invalid(what: String) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, what)
}

/// The message of a failure, without line numbers of the template.
fn chain(failure: &Failure) -> String {
    let Failure::Template(error) = failure else { return failure.to_string() };
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn row() -> Row {
        let row = json!({ "q": "2 + 2?", "choices": ["3", "4"], "answer": "4", "long": "ab".repeat(30_000) });
        row.as_object().unwrap().clone()
    }

    fn place() -> RowLocation<'static> {
        RowLocation { file: Path::new("rows.jsonl"), row: 7 }
    }

    fn check_stopped(template: &str, reason: &str) {
        let error = Templates::default().text("context", template, &row(), place()).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("rows.jsonl: row 7, `context` of the task: "), "{message}");
        assert!(message.contains(reason) && message.len() < 400, "{template}: {message}");
    }

    #[test]
    fn rows_fill_templates() {
        let templates = Templates::default();
        let text = templates.text("context", "Q: {{ q|regex_replace('[0-9]', '<$0>') }}\n", &row(), place());
        assert_eq!(text.unwrap(), "Q: <2> + <2>?\n");
        let index = templates.index("answer", "choices|index_of(answer)", &row(), place(), 2);
        assert_eq!(index.unwrap(), 1);
        assert_eq!(templates.texts("choices", "choices[::-1]", &row(), place()).unwrap(), ["4", "3"]);
        let error = templates.index("answer", "choices|index_of(long)", &row(), place(), 2).unwrap_err();
        assert!(error.to_string().ends_with("the list does not have this item"), "{error}");
    }

    #[test]
    fn templates_beyond_a_limit_are_stopped() {
        check_stopped(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "too many steps",
        );
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
        check_stopped(nested, "more than 100 deep");
        check_stopped("{{ '{:>4000000000}'.format(q) }}", "width");
        check_stopped("{{ missing }}", "undefined");
        let error = Templates::default().describe("{{ 'x' * 99999999 }}", &[("title", "t")]).unwrap_err();
        assert!(error.to_string().contains("description of the task: it takes too many steps"), "{error}");
    }

    #[test]
    fn regular_expressions_beyond_a_limit_are_stopped() {
        check_stopped("{{ q|regex_replace('(?:(?:a{1000}){1000}){1000}', '') }}", "size limit");
        check_stopped("{{ long|regex_replace('b', long) }}", "the result is longer");
        check_stopped("{{ (long * 2)|regex_replace('b', '') }}", "longer than 64 kB");
    }
}
