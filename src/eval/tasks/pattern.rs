//! Regular expressions of task definitions, within bounds: the size of the compiled expression, of the text, of the result,
//! and the time. The `regex` crate takes time in proportion to expression × text for each match, so the whole may take its
//! square.

use std::time::{Duration, Instant};

use regex::{Captures, Regex, RegexBuilder};

/// Bytes of a compiled expression. A class of Unicode letters takes some 10 kB.
const COMPILED: usize = 1 << 20;
/// Bytes of a text to search: answers and questions have some thousands.
const TEXT: usize = 1 << 16;
/// Bytes of a text with its matches replaced.
const REPLACED: usize = 1 << 20;
/// The time for all matches in a text.
const TIME: Duration = Duration::from_secs(5);

/// A compiled regular expression. Errors are messages.
#[derive(Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    pub(super) fn new(pattern: &str) -> Result<Pattern, String> {
        let regex = RegexBuilder::new(pattern).size_limit(COMPILED).dfa_size_limit(COMPILED).build();
        regex.map(Pattern).map_err(|e| e.to_string())
    }

    /// Replaces all matches; `$1` in the replacement is the first group.
    pub(super) fn replace_all(&self, text: &str, replacement: &str) -> Result<String, String> {
        let (mut replaced, mut end) = (String::new(), 0);
        self.for_each(text, |captures| {
            let whole = captures.get_match();
            replaced.push_str(&text[end..whole.start()]);
            captures.expand(replacement, &mut replaced);
            end = whole.end();
            if replaced.len() > REPLACED { Err(too_long("the result", REPLACED)) } else { Ok(()) }
        })?;
        replaced.push_str(&text[end..]);
        Ok(replaced)
    }

    /// The first match.
    pub(super) fn first<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, String> {
        check_text(text)?;
        Ok(self.0.captures(text))
    }

    /// The last match.
    pub(super) fn last<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, String> {
        let mut last = None;
        self.for_each(text, |captures| {
            last = Some(captures);
            Ok(())
        })?;
        Ok(last)
    }

    fn for_each<'t>(
        &self,
        text: &'t str,
        mut visit: impl FnMut(Captures<'t>) -> Result<(), String>,
    ) -> Result<(), String> {
        check_text(text)?;
        let start = Instant::now();
        for captures in self.0.captures_iter(text) {
            visit(captures)?;
            if start.elapsed() > TIME {
                return Err(format!("the expression takes more than {} s for one text", TIME.as_secs()));
            }
        }
        Ok(())
    }
}

fn check_text(text: &str) -> Result<(), String> {
    if text.len() > TEXT { Err(too_long("the text for a regular expression", TEXT)) } else { Ok(()) }
}

fn too_long(what: &str, limit: usize) -> String {
    format!("{what} is longer than {} kB", limit >> 10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_replaced_and_selected() {
        let pattern = Pattern::new(r"(\d+)-(\d+)").unwrap();
        assert_eq!(pattern.replace_all("a 1-2, 3-4.", "$2:$1").unwrap(), "a 2:1, 4:3.");
        assert_eq!(&pattern.first("1-2 3-4").unwrap().unwrap()[0], "1-2");
        assert_eq!(&pattern.last("1-2 3-4").unwrap().unwrap()[0], "3-4");
        assert!(pattern.last("none").unwrap().is_none());
    }

    #[test]
    fn large_expressions_texts_and_results_are_refused() {
        let error = Pattern::new("(?:(?:a{1000}){1000}){1000}").unwrap_err();
        assert!(error.contains("size limit"), "{error}");
        let any = Pattern::new(".").unwrap();
        let error = any.replace_all(&"x".repeat(TEXT + 1), "").unwrap_err();
        assert!(error.contains("longer than 64 kB"), "{error}");
        let error = any.first(&"x".repeat(TEXT + 1)).unwrap_err();
        assert!(error.contains("longer than 64 kB"), "{error}");
        let error = any.replace_all(&"x".repeat(1000), &"y".repeat(10_000)).unwrap_err();
        assert!(error.contains("the result is longer than 1024 kB"), "{error}");
    }
}
