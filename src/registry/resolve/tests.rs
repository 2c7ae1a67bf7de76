//! Mistakes in recipes, and the results of their names.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::recipe::Stage;

fn check(toml: &str, expected: &str) {
    let found = Recipe::from_toml("test.toml", toml).and_then(|recipe| recipe.resolve().map(|_| ()));
    let error = found.expect_err("must be refused");
    let text = format!("{error} | {}", error.hint().unwrap_or_default());
    assert!(text.contains(expected), "{text:?} does not contain {expected:?}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn mistakes_are_named() {
    check("sheme = 'w4a16'", "did you mean scheme?");
    check("[[overrides]]\nmatsh = 'x'", "did you mean match?");
    check("[[stages]]\nmethod = 'hqq'\nkapa = 1", "did you mean kappa?");
    check("[[overrides]]\nmatch = 'x'\nscheme = 'w4a17'", "did you mean w4a16?");
    check("scheme = 'w4a17'", "did you mean w4a16?");
    check("scheme = 'q4_k'\ngroup_size = 64", "fixes its groups");
    check("scheme = 'fp8-e5m2'\nsymmetric = false", "no zero points");
    check("scheme = 'w8a8'\ngroup_size = 64", "fixed (int8 channel");
    check("scheme = 'fp8-block'\ngroup_size = 64", "fixed (fp8 128x128)");
    check("scheme = 'w8a8'\nformat = 'gptq'", "w8a16");
    check("[[stages]]\nmethod = 'sorcery'", "known: rtn, mse, hqq");
    check("[[stages]]\nmethod = 'rtm'", "did you mean rtn?");
    check("[[stages]]\nmethod = 'rtn'\n[[stages]]\nmethod = 'mse'", "quantizes");
    check("[[stages]]\nmethod = 'lorc'\n[[stages]]\nmethod = 'mse'", "makes up for quantization");
    check("[[stages]]\nmethod = 'lorc'\n[[stages]]\nmethod = 'eora'", "makes up for quantization");
    check("[[stages]]\nmethod = 'mse'\n[[stages]]\nmethod = 'rotate'\n", "quantizes");
    check("[[stages]]\nmethod = 'eora'", "--data");
    check("[[stages]]\nmethod = 'lorc'\nrank = 0", "from 1 to");
    check("scheme = 'q4_k'\n[[stages]]\nmethod = 'lorc'", "choose a format that writes a folder");
    let scaled = "[calibration]\n[[stages]]\nmethod = 'awq'\n[[stages]]\nmethod = 'eora'";
    check(scaled, "awq-scale,mse,eora");
    check("format = 'zip'", "compressed-tensors");
    check("dtype = 'f64'", "bf16");
}

#[test]
fn keys_are_set_by_their_path() {
    let mut recipe = Recipe { stages: vec![Stage::new("hqq")], ..Recipe::default() };
    for assignment in ["scheme=w4a16-asym", "group_size=64", "hqq.iters=7", "exclude=['*.v_proj*']"] {
        recipe.set(assignment).unwrap();
    }
    assert_eq!(recipe.group_size, Some(64));
    assert_eq!(recipe.scheme.as_deref(), Some("w4a16-asym"));
    assert_eq!(recipe.exclude, ["*.v_proj*"]);
    assert_eq!(recipe.stages[0].parameters["iters"].as_integer(), Some(7));
    for (wrong, hint) in [("hqq.itres=7", "iters"), ("group_siz=64", "group_size"), ("hqq", "damping")] {
        let error = recipe.set(wrong).unwrap_err();
        assert!(error.hint().unwrap().contains(hint), "{wrong}: {error}");
    }
}

#[test]
fn no_method_takes_a_key_that_it_does_not_know() {
    let nonsense = Table::from_iter([("nonsense".to_owned(), toml::Value::from(1))]);
    for def in METHODS {
        let error = (def.build)(&nonsense).err().unwrap().to_string();
        assert!(error.contains("nonsense"), "{}: {error}", def.name);
    }
}

#[test]
fn the_format_follows_the_scheme() {
    let format = |scheme: &str| {
        let recipe = Recipe { scheme: Some(scheme.into()), ..Recipe::default() };
        recipe.resolve().unwrap().format.name()
    };
    assert_eq!(format("q4_k"), "gguf");
    assert_eq!(format("w4a16"), "compressed-tensors");
    assert_eq!(format("nf4"), "dense");
}
