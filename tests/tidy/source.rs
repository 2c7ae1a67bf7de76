//! Rust source as text: comments and strings blanked, test modules cut off. Not a parser; the limits are in `tidy.rs`.

/// A source file: its path from the repository's root with `/`, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// The module of the crate it belongs to: `src/io/map.rs` and `src/io.rs` are `io`.
    pub fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or_default();
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Returns true if all of it is compiled for tests only.
    pub fn is_test(&self) -> bool {
        !self.path.starts_with("src/")
            || ["/tests.rs", "/test_support.rs"].iter().any(|end| self.path.ends_with(end))
            || self.path.contains("/tests/")
    }

    /// Numbered lines of code: comments and the contents of strings blanked, the inline test module cut off.
    pub fn code(&self) -> Vec<(usize, String)> {
        let blanked = blank(&self.text);
        let lines: Vec<&str> = blanked.lines().collect();
        let end = if self.is_test() { 0 } else { inline_tests(&lines).unwrap_or(lines.len()) };
        let shown = if self.is_test() { &lines[..] } else { &lines[..end] };
        shown.iter().enumerate().map(|(i, line)| (i + 1, (*line).to_owned())).collect()
    }

    /// `path:line: what` for each line of code in which `wrong` finds something.
    pub fn problems(&self, wrong: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let lines = self.code();
        lines.iter().filter_map(|(n, line)| Some(format!("{}:{n}: {}", self.path, wrong(line)?))).collect()
    }
}

/// The line on which `#[cfg(test)] mod name {` begins.
fn inline_tests(lines: &[&str]) -> Option<usize> {
    (0..lines.len()).find(|&i| {
        let rest = lines[i + 1..].iter().find(|line| !line.trim_start().starts_with("#["));
        lines[i].trim() == "#[cfg(test)]" && rest.is_some_and(|l| l.contains("mod ") && l.ends_with('{'))
    })
}

/// The text with comments and the contents of string literals replaced by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if !out.ends_with(is_word) => raw_string(rest),
            '"' => string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (piece, after) = rest.split_at(taken);
        out.extend(piece.chars().map(|c| if skipped > 0 && c != '\n' { ' ' } else { c }));
        rest = after;
    }
    out
}

/// Length of the string literal that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return i + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Length of the raw string literal that `text` begins with; 0 if it does not.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|&c| c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let open = hashes + 2;
    text[open..].find(&close).map_or(text.len(), |end| open + end + close.len())
}

/// Length of the character literal that `text` begins with; 0 for a lifetime.
fn character(text: &str) -> usize {
    let inside = &text[1..];
    let first = inside.chars().next().map_or(0, char::len_utf8);
    match inside.strip_prefix('\\') {
        Some(escape) => escape.char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(i, _)| i + 3),
        None if inside[first..].starts_with('\'') => first + 2,
        None => 0,
    }
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns true if `line` holds `word`, not as part of a longer word.
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        let longer = line[..at].ends_with(is_word) || (word.ends_with(is_word) && after.starts_with(is_word));
        !longer
    })
}

#[test]
fn blanking_keeps_lines_and_code() {
    let text = "a // b\n\"c \\\" d\" e /* f\n g */ 'h' '\\'' <'i> r#\"j \" k\"# l";
    let words: Vec<_> = blank(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "e", "<'i>", "l"]);
    assert_eq!(blank(text).lines().count(), text.lines().count());
}
