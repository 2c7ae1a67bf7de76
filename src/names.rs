//! Errors for names that are not known: of schemes, methods, formats, recipes and keys. The hint gives the nearest known
//! name, or all of them.

use std::borrow::Cow;

use crate::error::Error;
use crate::similar::nearest;

/// Returns the error for an unknown name.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    Error::usage(format!("unknown {what} {name:?}"), hint(name, known))
}

/// Returns the nearest known name as a hint, or all of them.
fn hint(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// The longest name in a table, in characters.
const LONGEST: usize = 200;

/// Returns a name from a file as tables and messages show it: control characters escaped, the middle of a very long one left
/// out.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    let short = without_middle(name, LONGEST);
    if !short.contains(char::is_control) {
        return short;
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(short.chars().map(escape).collect())
}

/// Returns a word of a command line, in quotes where the shell needs them.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c));
    if plain && !word.is_empty() { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")).into() }
}

/// Cuts the middle out of a text of more than `longest` characters.
pub(crate) fn without_middle(text: &str, longest: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= longest {
        return Cow::Borrowed(text);
    }
    let start: String = text.chars().take(longest / 2).collect();
    let end: String = text.chars().skip(length - longest / 2 + 1).collect();
    Cow::Owned(format!("{start}…{end}"))
}

/// Returns the hint for serde's message about an unknown field; `None` for other messages.
pub(crate) fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let field = quoted.next().filter(|_| message.starts_with("unknown field"))?;
    let known: Vec<&str> = quoted.collect();
    Some(hint(field, &known))
}
