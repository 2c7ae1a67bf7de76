//! The source of an output as its model card tells it: its name, its id on the hub, and its own card.

use std::path::Path;

use serde_json::{Map, Value};

use crate::io::hub::{Id, cached_id, parse_id};
use crate::io::{Checkpoint, has_extension, read_whole};

/// The longest card that is kept, in bytes.
const LONGEST: usize = 256 << 10;
/// The keys of a card's front matter that hold for the output too.
const INHERITED: [&str; 5] = ["license", "license_name", "license_link", "language", "pipeline_tag"];

/// A source, for the card of an output.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SourceCard {
    /// Its name for people.
    pub name: String,
    /// The model on the hub that it is, or was made from.
    pub base: Option<Value>,
    /// The front matter of its card that holds for the output too.
    pub inherited: Map<String, Value>,
    /// The text of its card.
    pub text: String,
}

impl SourceCard {
    /// Describes a checkpoint that was named `model`.
    pub(crate) fn of(model: &str, checkpoint: &Checkpoint) -> SourceCard {
        let (front, text) = read(checkpoint);
        let id = hub_id(model).or_else(|| cached_id(&checkpoint.path));
        let name = id.as_ref().map_or_else(|| file_name(&checkpoint.path), |id| id.name().to_owned());
        let inherited =
            INHERITED.iter().filter_map(|key| Some(((*key).to_owned(), front.get(*key)?.clone())));
        SourceCard {
            name,
            inherited: inherited.collect(),
            base: id
                .map(|id| Value::from(id.model))
                .or_else(|| front.get("base_model").cloned())
                .or_else(|| trained_as(checkpoint)),
            text,
        }
    }
}

/// The front matter and the text of the card in a model's folder; of a GGUF, the front matter that its metadata stand for.
fn read(checkpoint: &Checkpoint) -> (Map<String, Value>, String) {
    let is_model = checkpoint.path.is_dir() || checkpoint.config.is_some();
    let folder =
        if checkpoint.path.is_dir() { Some(checkpoint.path.as_path()) } else { checkpoint.path.parent() };
    if let (true, false) = (is_model, has_extension(&checkpoint.path, "gguf")) {
        let bytes = folder.and_then(|folder| read_whole(&folder.join("README.md")).ok()).unwrap_or_default();
        return split(&String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]));
    }
    let keys = [("license", "general.license"), ("license_link", "general.license.link")];
    let known = keys.iter().filter_map(|(key, name)| {
        Some(((*key).to_owned(), Value::from(checkpoint.metadata.get(*name)?.as_str())))
    });
    (known.collect(), String::new())
}

/// Splits a card into its front matter and its text. Front matter that is no YAML counts as none.
fn split(card: &str) -> (Map<String, Value>, String) {
    let card = card.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let parts = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"));
    match parts {
        Some((front, text)) => (
            serde_saphyr::from_str(front).unwrap_or_default(),
            text.trim_start_matches('-').trim().to_owned(),
        ),
        None => (Map::new(), card.trim().to_owned()),
    }
}

/// The id of a model that was named by one: the hub links to it. A path is nobody else's.
fn hub_id(source: &str) -> Option<Id> {
    parse_id(source).filter(|_| !Path::new(source).exists())
}

/// The id under which a model was loaded when it was saved. A name alone may be a folder's.
fn trained_as(checkpoint: &Checkpoint) -> Option<Value> {
    let name = checkpoint.config.as_ref()?.get("_name_or_path")?;
    let id = parse_id(name.as_str()?).filter(|id| id.model.contains('/'))?;
    Some(id.model.into())
}

/// The name of a model by its path. A file with a usual name is called after its folder.
fn file_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let own = own.unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match folder {
        Some(folder) if own == "model" && path.is_file() => folder,
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hub_ids_are_base_models() {
        assert_eq!(hub_id("org/name@v1").map(|id| id.model).as_deref(), Some("org/name"));
        for path in ["model.safetensors", "./a/b", "/a/b", "a/b/c", "../b", "src/job"] {
            assert_eq!(hub_id(path), None, "{path}");
        }
    }

    #[test]
    fn a_card_is_split_from_its_front_matter() {
        let (front, text) =
            split("---\r\nlicense: mit\r\nlanguage:\r\n- en\r\n---\r\n\r\n# Title\r\nText\r\n");
        assert_eq!(Value::Object(front), serde_json::json!({ "license": "mit", "language": ["en"] }));
        assert_eq!(text, "# Title\nText");
        assert_eq!(split("# Only text\n---\n"), (Map::new(), "# Only text\n---".to_owned()));
        // What is no YAML, or would grow without end, is left out, and the text stays.
        let (front, text) = split("---\nlicense: [mit\n---\ntext");
        assert_eq!((front.len(), text.as_str()), (0, "text"));
        let bomb = format!(
            "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}",
            (1..30)
                .map(|i| { format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")) })
                .collect::<String>()
        );
        assert_eq!(split(&format!("---\n{bomb}---\ntext")).0.len(), 0);
    }
}
