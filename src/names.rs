//! Errors for names that are not known: of schemes, methods, formats, recipes and keys. The hint gives the nearest known
//! name, or all of them.

use std::borrow::Cow;

use crate::error::Error;

/// Similarity (Jaro-Winkler) from which a known name counts as near.
const NEAR: f64 = 0.75;

/// Returns the error for an unknown name.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    Error::usage(format!("unknown {what} {name:?}"), hint(name, known))
}

/// Returns the nearest known name as a hint, or all of them.
fn hint(name: &str, known: &[&str]) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(known, name);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest.filter(|known| similarity(known) > NEAR) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// The longest name in a table, in characters.
const LONGEST: usize = 200;

/// Returns a name from a file as tables and messages show it: control characters escaped, the middle of a very long one left
/// out.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= LONGEST && !name.contains(char::is_control) {
        return Cow::Borrowed(name);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let part = |skip: usize, take: usize| name.chars().skip(skip).take(take).map(escape).collect::<String>();
    Cow::Owned(match length <= LONGEST {
        true => part(0, length),
        false => format!("{}…{}", part(0, LONGEST / 2), part(length - LONGEST / 2 + 1, LONGEST / 2)),
    })
}

/// Returns the hint for serde's message about an unknown field; `None` for other messages.
pub(crate) fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let field = quoted.next().filter(|_| message.starts_with("unknown field"))?;
    let known: Vec<&str> = quoted.collect();
    Some(hint(field, &known))
}
