//! `Recipe`: what the user asks for, parsed without effects. Command-line flags and TOML give the same struct.

use serde::{Deserialize, Serialize};

/// What to do to a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// A preset's name: `w4a16`, `q4_k`, … (see `schemes`); `None` to convert only.
    pub scheme: Option<String>,
    /// Columns per scale, where the scheme has groups.
    pub group_size: Option<usize>,
    /// Without zero points.
    pub symmetric: Option<bool>,
    /// A name from METHODS.
    pub method: String,
    /// A name from FORMATS.
    pub format: String,
    /// Type of what is not quantized; `None` keeps each tensor's own.
    pub dtype: Option<String>,
    /// Globs over tensor names: quantize these even where a rule leaves them alone.
    pub include: Vec<String>,
    /// Globs over tensor names: leave these alone.
    pub exclude: Vec<String>,
    /// Largest shard, bytes.
    pub max_shard_size: u64,
    /// Make every substitution an error.
    pub strict: bool,
    /// Let NaN and infinities pass (they are counted and reported all the same).
    pub allow_nonfinite: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            scheme: None,
            group_size: None,
            symmetric: None,
            method: "rtn".into(),
            format: "compressed-tensors".into(),
            dtype: None,
            include: Vec::new(),
            exclude: Vec::new(),
            max_shard_size: 5_000_000_000,
            strict: false,
            allow_nonfinite: false,
        }
    }
}
