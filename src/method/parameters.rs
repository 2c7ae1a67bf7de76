//! A method's parameters, as recipes give them: TOML keys that are the fields of its struct.

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Fills a method's parameters in from a table. Its struct is `#[serde(default, deny_unknown_fields)]`.
///
/// # Errors
/// Unknown keys, naming the nearest known one; values of another type.
pub fn parse<P: DeserializeOwned>(method: &str, table: &toml::Table) -> Result<P> {
    table.clone().try_into().map_err(|e: toml::de::Error| {
        let what = format!("parameters of {method}: {}", e.message());
        let hint = nearest_key(e.message());
        Error::usage(
            what,
            hint.unwrap_or_else(|| "recipes/README.md lists what each method takes".to_owned()),
        )
    })
}

/// An unknown name, with the known one that is nearest to it, or all of them.
pub fn unknown_key(what: &str, key: &str, known: &[&str]) -> Error {
    let similarity = |name: &str| strsim::jaro_winkler(name, key);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let hint = match nearest.filter(|name| similarity(name) > 0.75) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known: {}", known.join(", ")),
    };
    Error::usage(format!("unknown {what} {key:?}"), hint)
}

/// For serde's words on an unknown field: the known one that is nearest to it.
pub fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown field"))?;
    let known: Vec<&str> = quoted.collect();
    unknown_key("key", unknown, &known).hint().map(str::to_owned)
}
