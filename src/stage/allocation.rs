//! The share of zeros of each block, given that of the whole model.

use serde::{Deserialize, Serialize};

/// A rule by which the blocks of a model share its zeros out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// The same share in each.
    #[default]
    Uniform,
    /// Fewer zeros where more scores stand out, measured on calibration text.
    Owl,
}
