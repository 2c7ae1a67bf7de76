//! Evaluates the templates and expressions of a definition over the fields of a row: minijinja with Python's string methods
//! and the two filters that the shipped tasks need. A missing field is an error, never an empty text.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error as TemplateError, ErrorKind, UndefinedBehavior, Value};
use regex::Regex;
use serde_json::Value as Json;

use crate::corpus::rows::{Row, RowLocation};
use crate::error::{Error, Result};

/// The error of a row that does not fit a key of the task's definition.
pub(crate) fn wrong(place: RowLocation, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let what = format!("row {}, `{key}` of the task", place.row);
    let hint = "check that this is the task's dataset, configuration and split (llmc eval tasks --list)";
    Error::malformed_tensor(place.file, what, expected, found, hint)
}

/// The environment that evaluates a definition's templates and expressions.
pub(crate) struct Templates {
    environment: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("regex_replace", regex_replace);
        environment.add_filter("index_of", index_of);
        Templates { environment }
    }
}

impl Templates {
    /// Renders a description; it can use only these variables.
    pub(crate) fn describe(&self, template: &str, variables: &[(&str, &str)]) -> Result<String> {
        self.environment.render_str(template, Value::from_pairs(variables.iter().copied())).map_err(|e| {
            Error::usage(format!("description of the task: {}", chain(&e)), "it can use `title` and `config`")
        })
    }

    /// Renders a template over a row.
    pub(crate) fn text(&self, key: &str, template: &str, row: &Row, place: RowLocation) -> Result<String> {
        self.environment
            .render_str(template, Value::from(Serde(row)))
            .map_err(|e| wrong(place, key, "a template that the row can fill", chain(&e)))
    }

    /// Evaluates an expression as a list of texts.
    pub(crate) fn texts(
        &self,
        key: &str,
        expression: &str,
        row: &Row,
        place: RowLocation,
    ) -> Result<Vec<String>> {
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
        self.json(expression, row)
            .map_err(|e| wrong(place, key, "an expression that the row can fill", chain(&e)))
    }

    fn json(&self, expression: &str, row: &Row) -> Result<Json, TemplateError> {
        let value = self.environment.compile_expression(expression)?.eval(Value::from(Serde(row)))?;
        if value.is_undefined() {
            return Err(TemplateError::from(ErrorKind::UndefinedError));
        }
        serde_json::to_value(value).map_err(|e| invalid(e.to_string()))
    }
}

/// Python's `re.sub(pattern, replacement, text)`.
fn regex_replace(text: &str, pattern: &str, replacement: &str) -> Result<String, TemplateError> {
    let regex = Regex::new(pattern).map_err(|e| invalid(e.to_string()))?;
    Ok(regex.replace_all(text, replacement).into_owned())
}

/// Python's `list.index(item)`.
fn index_of(list: Vec<Value>, item: Value) -> Result<usize, TemplateError> {
    list.iter().position(|each| *each == item).ok_or_else(|| invalid(format!("{item:?} is not in {list:?}")))
}

fn invalid(what: String) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, what)
}

/// The message of an error, without line numbers of the template.
fn chain(error: &TemplateError) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}
