//! Finds the answer in a model's text and compares it with the target: lm-evaluation-harness's `regex` filter
//! (`lm_eval/filters/extraction.py`) and `exact_match` (`lm_eval/api/metrics.py`).
//!
//! Limits: the `regex` crate has no look-around and no back references. `$` matches only at the end of the text; in Python it
//! also matches before a final line break.

use super::definition::{Filter, Generate, Select};
use super::pattern::Pattern;
use crate::error::{Error, Result};

/// The answer of a filter that finds nothing.
const NOT_FOUND: &str = "[invalid]";

/// The compiled regular expressions of a definition.
#[derive(Debug)]
pub(crate) struct Extractor {
    filters: Vec<(String, Pattern, Select)>,
    ignore: Vec<Pattern>,
    ignore_case: bool,
}

impl Extractor {
    /// Compiles the expressions.
    ///
    /// # Errors
    /// An invalid regular expression.
    pub(crate) fn new(generate: &Generate) -> Result<Extractor> {
        let mut filters = Vec::new();
        for Filter { name, pattern, select } in &generate.filters {
            filters.push((name.clone(), compile(pattern)?, *select));
        }
        let ignore = generate.ignore.iter().map(|pattern| compile(pattern)).collect::<Result<_>>()?;
        Ok(Extractor { filters, ignore, ignore_case: generate.ignore_case })
    }

    /// Returns for each filter its name, its answer, and true if the answer equals the target.
    ///
    /// # Errors
    /// A text that is too long for an expression, or an expression that takes too long for it.
    pub(crate) fn compare(&self, text: &str, target: &str) -> Result<Vec<(&str, String, bool)>> {
        let right = self.plain(target)?;
        let mut results = Vec::new();
        for (name, pattern, select) in &self.filters {
            let answer = find(pattern, *select, text)?;
            let equal = self.plain(&answer)? == right;
            results.push((name.as_str(), answer, equal));
        }
        Ok(results)
    }

    /// The text without the ignored parts.
    fn plain(&self, text: &str) -> Result<String> {
        let mut plain = text.to_owned();
        for pattern in &self.ignore {
            plain = pattern.replace_all(&plain, "").map_err(wrong)?;
        }
        Ok(if self.ignore_case { plain.to_lowercase() } else { plain })
    }
}

fn compile(pattern: &str) -> Result<Pattern> {
    Pattern::new(pattern).map_err(wrong)
}

fn wrong(message: String) -> Error {
    Error::usage(format!("pattern of the task: {message}"), "see the syntax at https://docs.rs/regex")
}

fn find(pattern: &Pattern, select: Select, text: &str) -> Result<String> {
    let found = match select {
        Select::First => pattern.first(text),
        Select::Last => pattern.last(text),
    };
    let answer = found.map_err(wrong)?.and_then(|captures| match captures.len() {
        1 => captures.get(0),
        _ => captures.iter().skip(1).flatten().find(|group| !group.is_empty()),
    });
    Ok(answer.map_or(NOT_FOUND, |answer| answer.as_str().trim()).to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::definition::{QuestionForm, find};
    use super::*;

    fn gsm8k() -> Extractor {
        let task = find("gsm8k").unwrap().remove(0);
        let QuestionForm::Generate(generate) = &task.definition.form else { panic!("gsm8k generates text") };
        Extractor::new(generate).unwrap()
    }

    fn check(written: &str, target: &str, expected: [(&str, bool); 2]) {
        let extractor = gsm8k();
        let found = extractor.compare(written, target).unwrap();
        let found: Vec<_> = found.iter().map(|(_, found, right)| (found.as_str(), *right)).collect();
        assert_eq!(found, expected, "{written}");
    }

    #[test]
    fn answers_are_found_strictly_and_flexibly() {
        let target = "She sells 9 for $2 each: 18.\n#### 1,018";
        check("So 9 * 2 = <<9*2=18>>18.\n#### 1018", target, [("1018", true), ("1018", true)]);
        check("#### 1,018.\n\nThat is all 7 of it", target, [("1,018.", true), ("7", false)]);
        check("The answer is $1,018.", target, [("[invalid]", false), ("$1,018.", true)]);
        check("#### 5\n#### 1018", target, [("5", false), ("1018", true)]);
        check("no number", target, [("[invalid]", false), ("[invalid]", false)]);
        check("it is -3", "#### -3", [("[invalid]", false), ("-3", true)]);
    }
}
