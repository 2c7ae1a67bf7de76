//! The result of a verification, tensor by tensor.

use serde::{Deserialize, Serialize};

use crate::json::null_is_nan;

/// How one tensor of the output compares with the input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorCheck {
    /// The output's name.
    pub name: String,
    /// What it was stored as.
    pub stored: String,
    /// Largest distance to the input's values.
    #[serde(deserialize_with = "null_is_nan")]
    pub max_error: f64,
    /// Root mean square of the distance.
    #[serde(deserialize_with = "null_is_nan")]
    pub rms_error: f64,
    /// The same, relative to the root mean square of the input's values.
    #[serde(deserialize_with = "null_is_nan")]
    pub relative_error: f64,
    /// Values that are not, to the bit, what the recipe gives.
    pub mismatches: u64,
    /// Whether what it ought to hold is not known: a calibrated run changed it, and has not recorded what it made.
    pub unknown: bool,
    /// Why it could not be read, if it could not.
    pub failure: Option<String>,
}

impl TensorCheck {
    /// The check of a tensor that does not hold, with the reason.
    pub fn failed(name: &str, why: &str) -> TensorCheck {
        TensorCheck { name: name.to_owned(), failure: Some(why.to_owned()), ..TensorCheck::default() }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.mismatches == 0 && self.failure.is_none()
    }
}

/// What `verify` found.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Every tensor of the plan.
    pub tensors: Vec<TensorCheck>,
}

impl Verification {
    /// Tensors that do not hold.
    pub fn failed(&self) -> impl Iterator<Item = &TensorCheck> {
        self.tensors.iter().filter(|check| !check.holds())
    }
}
