//! JSON as llmc writes it, and numbers that it cannot hold.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// JSON as people read it, with a final newline.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Reads a number that JSON gives as null because it is not finite: an error of a mean of one value.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
