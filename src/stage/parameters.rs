//! A method's parameters, as recipes give them: TOML keys that are the fields of its struct.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Allocation;
use crate::error::{Error, Result};
use crate::names::nearest_key;
use crate::numerics::{Pattern, Sparsity};

/// Reads a method's parameters from a table. Its struct is `#[serde(default, deny_unknown_fields)]`.
///
/// # Errors
/// Unknown keys, with the nearest known one; values of another type.
pub(crate) fn parse<P: DeserializeOwned>(method: &str, table: &toml::Table) -> Result<P> {
    table.clone().try_into().map_err(|e: toml::de::Error| {
        let what = format!("parameters of {method}: {}", e.message());
        let hint = nearest_key(e.message());
        Error::usage(
            what,
            hint.unwrap_or_else(|| "recipes/README.md lists the parameters of every method".to_owned()),
        )
    })
}

/// Reads the parameters of a pruning method that has none but its zeros and their allocation.
///
/// # Errors
/// Those of [`parse`] and [`sparsity`].
pub(crate) fn parse_sparsity(method: &str, table: &toml::Table) -> Result<(Sparsity, Allocation)> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Parameters {
        sparsity: Option<f64>,
        pattern: Pattern,
        allocation: Allocation,
    }
    let Parameters { sparsity: share, pattern, allocation } = parse(method, table)?;
    Ok((sparsity(method, share, pattern)?, allocation))
}

/// The zeros that a pruning method is asked for: a share of the weights, and a pattern.
///
/// # Errors
/// A share that is not between 0 and 1, or is not the pattern's.
pub(crate) fn sparsity(method: &str, share: Option<f64>, pattern: Pattern) -> Result<Sparsity> {
    let found = Sparsity::new(share, pattern);
    found.map_err(|why| Error::usage(format!("{method}: {why}"), "--sparsity 0.5, or --pattern 2:4"))
}
