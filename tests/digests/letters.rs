//! The models of `fixtures/models` with a tokenizer, so that text can be run through every architecture.

use std::path::Path;

use serde_json::{Map, json};

use crate::common::fixture;

/// The folder of the models, as the command lines of a case name it.
pub const LETTERS: &str = "letters";

/// Tokens of these models.
const VOCABULARY: u8 = 91;

/// Writes the models into a folder.
pub fn write(folder: &Path, models: &[String]) {
    let tokenizer = tokenizer();
    for model in models {
        let [from, to] = [fixture("models").join(model), folder.join(model)];
        std::fs::create_dir_all(&to).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        std::fs::write(to.join("tokenizer.json"), &tokenizer).unwrap();
    }
}

/// A tokenizer.json: a token for each of the first printable characters.
fn tokenizer() -> String {
    let vocabulary: Map<_, _> =
        (0..VOCABULARY).map(|id| (char::from(b' ' + id).to_string(), id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split", "pattern": { "Regex": "(?s)." }, "behavior": "Isolated", "invert": false
        },
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": " " }
    })
    .to_string()
}
