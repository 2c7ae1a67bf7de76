//! JSON as llmc reads and writes it, and numbers that it cannot hold.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity`, which JSON does not have. They are held as marked strings, and written as
//! Python writes them.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Python's names of such numbers; the longer one of two that end alike comes first.
const PYTHON_FLOATS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
/// Opens the strings that stand for such numbers: a character that no text has.
const MARK: char = '\u{FDD0}';

/// Parses JSON, or what Python takes for it.
///
/// # Errors
/// Those of strict JSON.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes).or_else(|error| {
        let text = std::str::from_utf8(bytes).ok().map(spell_floats);
        text.and_then(|text| serde_json::from_str(&text).ok()).ok_or(error)
    })
}

/// Replaces the names of numbers outside of strings.
fn spell_floats(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let name = PYTHON_FLOATS.into_iter().find(|name| rest.starts_with(name));
        let taken = match name {
            _ if next == '"' => string_len(rest),
            Some(name) => name.len(),
            None => next.len_utf8(),
        };
        match name {
            Some(name) => spelled.extend(['"', MARK].into_iter().chain(name.chars()).chain(['"'])),
            None => spelled.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    spelled
}

/// Bytes of the string that a text begins with, its quotes included; all of the text if it does not end.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, quote)| at + quote.len_utf8())
}

/// JSON as people read it, with a final newline.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let text = PYTHON_FLOATS
        .iter()
        .fold(format!("{value:#}\n"), |text, name| text.replace(&format!("\"{MARK}{name}\""), name));
    text.into_bytes()
}

/// Reads a number that JSON gives as null because it is not finite: an error of a mean of one value.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Python reads back what `pretty` writes: its own names, outside of strings only.
    #[test]
    fn pythons_numbers_come_back() {
        let text = r#"{"limit": [0.0, Infinity], "low": -Infinity, "n": NaN, "text": "NaN \" Infinity",
            "spelled": {"__float__": "Infinity"}}"#;
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(value["text"], "NaN \" Infinity");
        assert!(value["limit"][1].as_f64().is_none(), "no default takes its place");
        let written = String::from_utf8(pretty(&value)).unwrap();
        let flat: String = written.split_whitespace().collect();
        assert_eq!(
            flat,
            r#"{"limit":[0.0,Infinity],"low":-Infinity,"n":NaN,"text":"NaN\"Infinity","spelled":{"__float__":"Infinity"}}"#
        );
    }

    #[test]
    fn what_is_no_json_keeps_its_error() {
        for text in ["", "{", "{\"a\": Inf}", "[NaN", "\"Infinity", "{\"a\": \"\\", "Infinityx"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&[b'"', 0xFF, b'"']).is_err());
    }
}
