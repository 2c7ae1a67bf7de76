//! The answer in what a model wrote, and whether it is the right one: lm-evaluation-harness's `regex` filter
//! (`lm_eval/filters/extraction.py`) and `exact_match` (`lm_eval/api/metrics.py`).
//!
//! Limit: expressions are those of the `regex` crate, without look-around and back references; `$` is the end of the text, and
//! not a place before a last line break too, as in Python.

use regex::Regex;

use super::definition::{Filter, Generate, Select};
use crate::error::{Error, Result};

/// Stands for an answer that was not found.
const NOT_FOUND: &str = "[invalid]";

/// A definition's regular expressions, compiled.
#[derive(Debug)]
pub struct Extractor {
    filters: Vec<(String, Regex, Select)>,
    ignore: Vec<Regex>,
    ignore_case: bool,
}

impl Extractor {
    /// Compiles them.
    ///
    /// # Errors
    /// No regular expression.
    pub fn new(generate: &Generate) -> Result<Extractor> {
        let compile = |pattern: &str| {
            let failed = |e| {
                Error::usage(format!("pattern of the task: {e}"), "see the syntax at https://docs.rs/regex")
            };
            Regex::new(pattern).map_err(failed)
        };
        let filter = |filter: &Filter| Ok((filter.name.clone(), compile(&filter.pattern)?, filter.select));
        Ok(Extractor {
            filters: generate.filters.iter().map(filter).collect::<Result<_>>()?,
            ignore: generate.ignore.iter().map(|pattern| compile(pattern)).collect::<Result<_>>()?,
            ignore_case: generate.ignore_case,
        })
    }

    /// For each filter: its name, what it finds, and whether that is the target.
    pub fn compare(&self, written: &str, target: &str) -> Vec<(&str, String, bool)> {
        let right = self.plain(target);
        let mut results = Vec::new();
        for (name, regex, select) in &self.filters {
            let found = find(regex, *select, written);
            let equal = self.plain(&found) == right;
            results.push((name.as_str(), found, equal));
        }
        results
    }

    fn plain(&self, text: &str) -> String {
        let text =
            self.ignore.iter().fold(text.to_owned(), |text, regex| regex.replace_all(&text, "").into_owned());
        if self.ignore_case { text.to_lowercase() } else { text }
    }
}

fn find(regex: &Regex, select: Select, written: &str) -> String {
    let mut matches = regex.captures_iter(written);
    let found = match select {
        Select::First => matches.next(),
        Select::Last => matches.last(),
    };
    let answer = found.and_then(|captures| match captures.len() {
        1 => captures.get(0),
        _ => captures.iter().skip(1).flatten().find(|group| !group.is_empty()),
    });
    answer.map_or(NOT_FOUND, |answer| answer.as_str().trim()).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::definition::{Form, find};
    use super::*;

    fn gsm8k() -> Extractor {
        let task = find("gsm8k").unwrap().remove(0);
        let Form::Generate(generate) = &task.definition.form else { panic!("gsm8k lets write") };
        Extractor::new(generate).unwrap()
    }

    fn check(written: &str, target: &str, expected: [(&str, bool); 2]) {
        let extractor = gsm8k();
        let found = extractor.compare(written, target);
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
