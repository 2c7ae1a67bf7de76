//! Cards of quantized fixtures: their front matter as YAML, and the lines that load the model.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::job::{Destination, Quantize, Silent};
use crate::recipe::{Recipe, Stage};

/// A copy of a fixture in `folder/name`.
fn copy(fixture: &str, folder: &Path, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    fs::create_dir_all(folder.join(name)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), folder.join(name).join(entry.file_name())).unwrap();
    }
}

/// The front matter and the text of the card of a model in INT4.
fn card(folder: &Path, name: &str) -> (Value, String) {
    let recipe = Recipe {
        scheme: Some("w4a16".into()),
        group_size: Some(2), // divides the columns of every fixture
        stages: vec![Stage::new("mse")],
        ..Recipe::default()
    };
    let job = Quantize {
        model: folder.join(name).display().to_string(),
        recipe,
        destination: Destination {
            output: Some(folder.join("a small one")),
            overwrite: true,
            ..Destination::default()
        },
        command: "llmc quantize".into(),
        ..Quantize::default()
    };
    job.run(&Silent).unwrap();
    let card = fs::read_to_string(folder.join("a small one/README.md")).unwrap();
    let (front, text) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    (serde_saphyr::from_str(front).unwrap(), text.to_owned())
}

#[test]
fn a_card_has_what_the_hub_reads_and_the_card_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    copy("tiny-llama", folder.path(), "Tiny-1B");
    let own = "---\nlicense: other\nlicense_name: \"a: b\"\nlanguage: [en, de]\npipeline_tag: text2text-generation\n\
               base_model: org/Tiny\ntags: [x]\n---\n# Tiny\nUse it well.";
    fs::write(folder.path().join("Tiny-1B/README.md"), own).unwrap();
    let (front, text) = card(folder.path(), "Tiny-1B");
    let expected = json!({
        "license": "other",
        "license_name": "a: b",
        "language": ["en", "de"],
        "pipeline_tag": "text2text-generation",
        "base_model": "org/Tiny",
        "base_model_relation": "quantized",
        "library_name": "transformers",
        "tags": ["llmc", "compressed-tensors", "w4a16"],
    });
    assert_eq!(front, expected);
    assert!(text.starts_with("\n# Tiny-1B, INT4 (w4a16, group 2, mse)\n"), "{text}");
    assert!(text.ends_with("\n## Card of Tiny-1B\n\n# Tiny\nUse it well.\n"), "{text}");
    assert!(text.contains("```sh\nvllm serve 'a small one'\n```") && !text.contains("PATH"), "{text}");
    assert!(text.contains("AutoModelForCausalLM.from_pretrained(\"a small one\""), "{text}");
}

#[test]
fn without_a_card_the_config_names_the_base_and_the_task() {
    let folder = tempfile::tempdir().unwrap();
    copy("tiny-llama", folder.path(), "model");
    let path = folder.path().join("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["_name_or_path"] = "org/base".into();
    fs::write(&path, config.to_string()).unwrap();
    let (front, _) = card(folder.path(), "model");
    assert_eq!(front["base_model"], "org/base");
    assert_eq!(front["pipeline_tag"], "text-generation");
    config["_name_or_path"] = "/home/me/base".into();
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(card(folder.path(), "model").0.get("base_model"), None);
}

#[test]
fn no_engine_is_named_that_does_not_load_it() {
    let folder = tempfile::tempdir().unwrap();
    copy("models/bert", folder.path(), "bert");
    let (front, text) = card(folder.path(), "bert");
    assert!(text.contains("AutoModel.from_pretrained(\"a small one\"") && !text.contains("vllm"), "{text}");
    assert_eq!(front["pipeline_tag"], "feature-extraction");

    fs::write(folder.path().join("bert/modules.json"), "[]").unwrap();
    let (front, text) = card(folder.path(), "bert");
    assert!(text.contains("SentenceTransformer(\"a small one\")") && !text.contains("AutoModel"), "{text}");
    assert_eq!(
        (&front["library_name"], &front["pipeline_tag"]),
        (&json!("sentence-transformers"), &json!("sentence-similarity"))
    );

    fs::remove_file(folder.path().join("bert/config.json")).unwrap();
    let (_, text) = card(folder.path(), "bert");
    assert!(text.contains("no config.json") && !text.contains("from_pretrained"), "{text}");
}
