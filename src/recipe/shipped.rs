//! The recipes that the binary carries: those of the folder recipes/.

use super::Recipe;
use crate::error::Result;
use crate::names::unknown;
use crate::similar::same;

/// The shipped recipe that `--bits 4` stands for; without text to calibrate on, its scheme alone.
pub const CALIBRATED_4_BITS: &str = "w4a16-gptq";

/// The recipes that the binary carries: (name, text).
pub const SHIPPED: &[(&str, &str)] = &[
    ("w4a16-gptq", include_str!("../../recipes/w4a16-gptq.toml")),
    ("w4a16-asym-gptq", include_str!("../../recipes/w4a16-asym-gptq.toml")),
    ("w4a16-asym-awq-gptq", include_str!("../../recipes/w4a16-asym-awq-gptq.toml")),
    ("w4a16-awq", include_str!("../../recipes/w4a16-awq.toml")),
    ("w8a8-smoothquant", include_str!("../../recipes/w8a8-smoothquant.toml")),
    ("w4a16-rotate-gptq", include_str!("../../recipes/w4a16-rotate-gptq.toml")),
    ("sparse-50", include_str!("../../recipes/sparse-50.toml")),
    ("q4_0-imatrix", include_str!("../../recipes/q4_0-imatrix.toml")),
];

impl Recipe {
    /// A recipe that the binary carries.
    ///
    /// # Errors
    /// An unknown name, naming the nearest known one.
    pub fn shipped(name: &str) -> Result<Recipe> {
        let (name, text) = Recipe::find_shipped(name)?;
        Recipe::from_toml(name, text)
    }

    /// The name and the text of a recipe that the binary carries.
    pub(crate) fn find_shipped(name: &str) -> Result<(&'static str, &'static str)> {
        let names: Vec<&str> = SHIPPED.iter().map(|(shipped, _)| *shipped).collect();
        let found = SHIPPED.iter().find(|(shipped, _)| same(shipped, name));
        found.copied().ok_or_else(|| unknown("recipe", name, &names))
    }
}
