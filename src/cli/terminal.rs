//! Text on the terminal: what comes from files is escaped, and a stderr that cannot be written is no reason to stop.

use std::borrow::Cow;
use std::io::Write;

use crate::names::without_middle;

/// The longest message that is printed whole, in characters.
const LONGEST: usize = 4000;

/// Prints one line to stderr. Nothing is left to do if that fails.
pub(crate) fn tell(line: &str) {
    let line = without_middle(line, LONGEST);
    let _ = writeln!(std::io::stderr(), "{}", escaped(&line).replace('\n', "\\n"));
}

/// Prints a line of JSON to stderr, whole.
pub(crate) fn tell_json(value: &serde_json::Value) {
    let _ = writeln!(std::io::stderr(), "{}", escaped_json(&value.to_string()));
}

/// Replaces control characters, which could move the cursor or hide text, by their escapes. Tabs and ends of lines stay.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let is_foreign = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_foreign) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_foreign(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Escapes the control characters that JSON allows in strings.
pub(crate) fn escaped_json(json: &str) -> String {
    let is_foreign = |c: char| c.is_control() && c != '\n';
    let escape = |c: char| if is_foreign(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    if json.contains(is_foreign) { json.chars().map(escape).collect() } else { json.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\x1b[31mb\u{9b}2J\r\n\tc"), "a\\u{1b}[31mb\\u{9b}2J\\r\n\tc");
        assert_eq!(escaped_json("[\"\u{9b}2J\"]\n"), "[\"\\u009b2J\"]\n");
        assert_eq!(escaped("größer · 日本"), "größer · 日本");
    }

    #[test]
    fn long_text_loses_its_middle() {
        let text = format!("begin{}end", "x".repeat(1 << 20));
        let short = without_middle(&text, LONGEST);
        assert!(short.starts_with("begin") && short.ends_with("end") && short.len() < 5000);
    }
}
