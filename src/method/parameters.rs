//! A method's parameters, as recipes give them: TOML keys that are the fields of its struct.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Fills a method's parameters in from a table, the rest from the defaults.
///
/// # Errors
/// Unknown keys, naming the nearest known one; values of another type.
pub fn parse<P: Serialize + DeserializeOwned + Default>(method: &str, table: &toml::Table) -> Result<P> {
    let known = toml::Table::try_from(P::default()).expect("parameters are plain values");
    if let Some(key) = table.keys().find(|key| !known.contains_key(*key)) {
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(unknown_key(&format!("parameter of {method}"), key, &known));
    }
    table.clone().try_into().map_err(|e: toml::de::Error| {
        let what = format!("parameters of {method}: {}", e.to_string().trim());
        Error::usage(what, format!("its defaults: {}", known.to_string().trim().replace('\n', ", ")))
    })
}

/// An unknown key, with the known one that is nearest to it, or all of them.
pub fn unknown_key(what: &str, key: &str, known: &[&str]) -> Error {
    let similarity = |name: &str| strsim::jaro_winkler(name, key);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let hint = match nearest.filter(|name| similarity(name) > 0.75) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known: {}", known.join(", ")),
    };
    Error::usage(format!("unknown {what} {key:?}"), hint)
}
