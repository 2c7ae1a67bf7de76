//! Text on the terminal: what comes from files is escaped, and a stderr that cannot be written is no reason to stop.

use std::borrow::Cow;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, WeakProgressBar};

use crate::job::Phase;
use crate::names::without_middle;

/// The longest message that is printed whole, in characters.
const LONGEST: usize = 4000;

/// The bar of the work in hand, and its phase.
static CURRENT: Mutex<Option<(WeakProgressBar, Phase)>> = Mutex::new(None);

/// Says that a bar has the last line of the terminal from now on.
pub(crate) fn occupy(bar: &ProgressBar, phase: Phase) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some((bar.downgrade(), phase));
}

/// The bar of the work in hand, and its phase; `None` between two.
pub(crate) fn current() -> Option<(ProgressBar, Phase)> {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    current.0.upgrade().filter(|bar| !bar.is_finished()).map(|bar| (bar, current.1))
}

/// Prints one line to stderr. Nothing is left to do if that fails.
pub(crate) fn tell(line: &str) {
    let line = without_middle(line, LONGEST);
    write(&format!("{}\n", escaped(&line).replace('\n', "\\n")));
}

/// Prints to stdout where no command runs. Nothing is left to do if that fails.
pub(crate) fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a line of JSON to stderr, whole.
pub(crate) fn tell_json(value: &serde_json::Value) {
    write(&format!("{}\n", escaped_json(&value.to_string())));
}

/// Writes to stderr, above the bar if there is one.
fn write(text: &str) {
    let write = || {
        let _ = std::io::stderr().write_all(text.as_bytes());
    };
    match current() {
        Some((bar, _)) => bar.suspend(write),
        None => write(),
    }
}

/// stderr for the log: a line of it does not cut through the bar.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        write(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
