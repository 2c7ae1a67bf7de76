//! The recipes that the binary carries.

use llmc::recipe::{Recipe, SHIPPED};
use serde_json::Value;

use crate::common::{json, ok};
use crate::model::Model;

#[test]
fn shipped_recipes_resolve_and_say_what_they_are() {
    for (name, text) in SHIPPED {
        let recipe = Recipe::from_toml(name, text).unwrap();
        recipe.resolve().unwrap();
        assert!(text.starts_with("# "), "{name}: opens with what it does and costs");
        assert_eq!(Recipe::from_toml(name, &recipe.to_toml()).unwrap(), recipe, "{name}");
    }
    let here = tempfile::tempdir().unwrap();
    let help = ok(here.path(), "run --help");
    assert!(SHIPPED.iter().all(|(name, _)| help.contains(name)), "{help}");
}

#[test]
fn shipped_recipes_can_be_carried_out() {
    let folder = Model::of("tiny-qwen3-moe").folder();
    let here = folder.path();
    assert!(SHIPPED.iter().any(|(_, text)| text.contains("q4_0")), "a recipe makes a GGUF");
    for (name, text) in SHIPPED {
        let out = if text.contains("q4_0") { format!("{name}.gguf") } else { (*name).to_owned() };
        let line = format!(
            "run {name} --model model --set calibration.samples=4 --set calibration.seq_len=32 --data text.txt \
             --json -o {out}"
        );
        let report = json(here, &line);
        assert_eq!(report["blocks"].as_array().unwrap().len(), 2, "{name}");
        // GGUF has one tensor for all experts of a block.
        let prunes = text.contains("sparsity");
        assert!(prunes || report["quantized"].as_u64().unwrap() >= 14, "{name}: {report}");
        let found: Value = json(here, &format!("verify {out} --against model --json"));
        assert_eq!((&found["holds"], &found["missing_record"]), (&true.into(), &false.into()), "{name}");
        let unknown = found["tensors"].as_array().unwrap().iter().filter(|check| check["unknown"] == true);
        let held = report["quantized"].as_u64().unwrap();
        let unknown: Vec<&Value> = unknown.filter(|check| check["stored"] != "bf16").collect();
        assert!(unknown.is_empty(), "{name}: of {held} quantized tensors: {unknown:?}");
    }
}

/// The TOML of recipes/README.md.
fn documented() -> String {
    let text = include_str!("../../recipes/README.md");
    text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

#[test]
fn the_document_of_all_keys_is_a_recipe_and_lists_all() {
    let text = documented();
    Recipe::from_toml("README.md", &text).unwrap();
    let all = text.replace("# statistics", "statistics").replace("# size", "size");
    let documented: toml::Table = all.parse().unwrap();
    // Serde names every key that it knows when it meets one that it does not.
    let known = |wrong: &str| {
        let said = Recipe::from_toml("", wrong).unwrap_err().to_string();
        let named = said.split('`').skip(1).step_by(2).map(str::to_owned);
        named.filter(|key| key != "nonsense").collect::<Vec<_>>()
    };
    let listed = |table: &toml::Table, wrong: &str| {
        let known = known(wrong);
        assert!(known.len() > 2, "{wrong}: {known:?}");
        known
            .iter()
            .for_each(|key| assert!(table.contains_key(key), "recipes/README.md lacks {key} of {wrong:?}"));
    };
    listed(&documented, "nonsense = 1");
    for section in ["calibration", "budget"] {
        listed(documented[section].as_table().unwrap(), &format!("[{section}]\nnonsense = 1"));
    }
    let methods = include_str!("../../recipes/README.md");
    for method in llmc::registry::METHODS {
        assert!(methods.contains(&format!("`{}`", method.name)), "{}", method.name);
    }
}
