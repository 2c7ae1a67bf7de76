//! The recipes that ship with llmc.

use serde::{Deserialize, Serialize};

use super::record::Version;
use crate::error::Result;
use crate::recipe::{Recipe, SHIPPED};

/// A recipe that ships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeRecord {
    /// The name that `llmc run` takes.
    pub name: String,
    /// Its result: the first sentence of its text.
    pub summary: String,
    /// The methods, in order.
    pub method: String,
    /// True if it calibrates, on `--data` or `--stats`.
    pub needs_text: bool,
    /// The recipe itself, in TOML.
    pub toml: String,
    /// Version of this record.
    pub record: Version<1>,
}

/// Every recipe that ships; with a name that one alone.
///
/// # Errors
/// A name that is unknown, with the nearest known one.
pub fn recipes(name: Option<&str>) -> Result<Vec<RecipeRecord>> {
    let Some(name) = name else { return SHIPPED.iter().map(|(name, text)| record(name, text)).collect() };
    let (name, text) = Recipe::find_shipped(name)?;
    Ok(vec![record(name, text)?])
}

fn record(name: &str, text: &str) -> Result<RecipeRecord> {
    let recipe = Recipe::from_toml(name, text)?;
    Ok(RecipeRecord {
        name: name.to_owned(),
        summary: first_sentence(text),
        method: recipe.method_names(),
        needs_text: recipe.calibration.is_some(),
        toml: text.to_owned(),
        record: Version,
    })
}

/// The first sentence of the comment that a text begins with.
fn first_sentence(text: &str) -> String {
    let comment = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let comment = comment.collect::<Vec<_>>().join(" ");
    comment.split_once(". ").map_or(comment.clone(), |(sentence, _)| format!("{sentence}."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_says_what_it_makes() {
        let all = recipes(None).unwrap();
        assert_eq!(all.len(), SHIPPED.len());
        for recipe in all {
            let words = recipe.summary.split(' ').count();
            assert!((5..40).contains(&words) && recipe.summary.ends_with('.'), "{}", recipe.summary);
            assert!(recipe.needs_text && !recipe.method.is_empty(), "{}", recipe.name);
        }
    }

    #[test]
    fn a_recipe_by_its_name() {
        let [recipe] = recipes(Some("W4A16_GPTQ")).unwrap().try_into().unwrap();
        assert_eq!((recipe.name.as_str(), recipe.method.as_str()), ("w4a16-gptq", "gptq"));
        assert!(recipe.summary.starts_with("INT4 in symmetric groups"), "{}", recipe.summary);
        assert!(recipes(Some("w4a16-gtpq")).unwrap_err().hint().unwrap().contains("w4a16-gptq"));
    }
}
