//! Any text as a recipe: an error, or a recipe that survives being written and read, and that resolves or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmc::recipe::Recipe;

fuzz_target!(|text: &str| {
    let Ok(recipe) = Recipe::from_toml("fuzzed", text) else { return };
    assert_eq!(Recipe::from_toml("written", &recipe.to_toml()).expect("it was just written"), recipe);
    let _ = recipe.resolve();
});
