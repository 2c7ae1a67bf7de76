//! The result of a verification, tensor by tensor.

use serde::{Deserialize, Serialize};

use crate::json::null_is_nan;

/// The comparison of one tensor of the output with the input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorCheck {
    /// The output's name.
    pub name: String,
    /// Its scheme or type.
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
    /// Number of values that differ, in any bit, from the result of the recipe.
    pub mismatches: u64,
    /// True if the right values are not known: a calibrated run changed the tensor and did not record a digest.
    pub unknown: bool,
    /// The reason if it could not be read, or is wrong as a whole.
    pub failure: Option<String>,
}

impl TensorCheck {
    /// The check of a tensor with a problem.
    pub(crate) fn failed(name: &str, why: &str) -> TensorCheck {
        TensorCheck { name: name.to_owned(), failure: Some(why.to_owned()), ..TensorCheck::default() }
    }

    /// Returns true if no problem was found.
    pub(crate) fn holds(&self) -> bool {
        self.mismatches == 0 && self.failure.is_none()
    }
}

/// The result of a verification.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verification {
    /// Every tensor of the plan.
    pub tensors: Vec<TensorCheck>,
    /// True if a calibrated run changed tensors and the output's record is missing.
    pub missing_record: bool,
}

impl Verification {
    /// The tensors with a problem.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &TensorCheck> {
        self.tensors.iter().filter(|check| !check.holds())
    }
}
