//! Names of models on the hub.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use crate::io::index::is_plain_name;

/// A model of the hub, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// `org/name`; `name` alone for a few old models.
    pub model: String,
    /// A branch, a tag or a commit; `main` where none was given.
    pub revision: String,
    /// One weight file of several: its name, or a part of it such as `Q4_K_M`.
    pub file: Option<String>,
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let file = self.file.as_ref().map_or(String::new(), |file| format!(":{file}"));
        write!(f, "{}@{}{file}", self.model, self.revision)
    }
}

/// Hosts of the hub, as people paste them.
const HOSTS: &[&str] = &["huggingface.co/", "www.huggingface.co/", "hf.co/"];
/// Models from before the hub had organisations, whose ids are a name alone: exact ones, and beginnings.
const OLD_MODELS: &[&str] =
    &["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "distilroberta-base"];
const OLD_FAMILIES: &[&str] = &["bert-", "distilbert-", "roberta-", "xlm-roberta-", "albert-", "t5-"];

/// Parses the name of a model; `None` for what cannot be one. The rules for names are the hub's
/// (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_validators.py>). The forms:
///
/// - `org/name[@revision][:FILE]`, where FILE is the name of a weight file or a part of it: `org/name-GGUF:Q4_K_M`;
/// - the address of a page: `https://huggingface.co/org/name[/tree/REVISION | /blob/REVISION/FILE]`;
/// - `hf://org/name[@revision][/FILE]`;
/// - `gpt2`, and other models from before there were organisations.
pub fn parse_id(input: &str) -> Option<Id> {
    let id = match (address_path(input), input.strip_prefix("hf://")) {
        (Some(path), _) => of_address(path),
        (None, Some(path)) => of_hf_path(path.strip_prefix("models/").unwrap_or(path)),
        (None, None) => of_name(input),
    };
    id.filter(Id::is_valid)
}

/// The path of an address on the hub, without query and fragment.
fn address_path(input: &str) -> Option<&str> {
    let plain = ["https://", "http://"].iter().find_map(|scheme| input.strip_prefix(scheme)).unwrap_or(input);
    let path = HOSTS.iter().find_map(|host| plain.strip_prefix(host))?;
    Some(path.split(['?', '#']).next().unwrap_or(path).trim_end_matches('/'))
}

/// `org/name`, `org/name/tree/REVISION`, `org/name/blob/REVISION/FILE`, `org/name/resolve/REVISION/FILE`.
fn of_address(path: &str) -> Option<Id> {
    let parts: Vec<&str> = path.split('/').collect();
    let kind = parts.iter().skip(1).position(|part| ["tree", "blob", "resolve"].contains(part));
    let (model, rest) = parts.split_at(kind.map_or(parts.len(), |kind| kind + 1));
    match rest {
        [] => Some(Id::new(&model.join("/"), "main", None)),
        ["tree", revision @ ..] => Some(Id::new(&model.join("/"), &revision.join("/"), None)),
        [_, revision, .., file] => Some(Id::new(&model.join("/"), revision, weights_of(file))),
        _ => None,
    }
}

/// `org/name[@revision][/FILE]`.
fn of_hf_path(path: &str) -> Option<Id> {
    let parts: Vec<&str> = path.trim_end_matches('/').splitn(3, '/').collect();
    match parts.as_slice() {
        [org, name, file] => {
            of_name(&format!("{org}/{name}")).map(|id| Id { file: weights_of(file).map(str::to_owned), ..id })
        }
        _ => of_name(&parts.join("/")),
    }
}

/// The name of a file of weights; `None` for another file, which stands for the whole model.
fn weights_of(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| is_weights(name))
}

/// `org/name[@revision][:FILE]`.
fn of_name(input: &str) -> Option<Id> {
    let (rest, file) = match input.split_once(':') {
        Some((rest, file)) => (rest, Some(file)),
        None => (input, None),
    };
    let (model, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    Some(Id::new(model, revision, file))
}

/// The id of a model in the hub's cache: `…/models--org--name/snapshots/COMMIT`.
pub(crate) fn cached_id(path: &Path) -> Option<Id> {
    let folders = path.iter().filter_map(|part| part.to_str()?.strip_prefix("models--"));
    folders.map(|name| name.replacen("--", "/", 1)).find_map(|id| parse_id(&id))
}

impl Id {
    fn new(model: &str, revision: &str, file: Option<&str>) -> Id {
        Id { model: model.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) }
    }

    fn is_valid(&self) -> bool {
        let named = match self.model.split_once('/') {
            Some((org, name)) => is_hub_name(org) && is_hub_name(name) && !is_weights(name),
            None => is_old(&self.model),
        };
        let plain_file = |file: &String| is_plain_name(file) && file.chars().all(|c| c.is_ascii_graphic());
        named
            && self.model.len() <= 96
            && is_revision(&self.revision)
            && self.file.as_ref().is_none_or(plain_file)
    }

    /// The model's own name, without its organisation.
    pub(crate) fn name(&self) -> &str {
        self.model.rsplit('/').next().unwrap_or(&self.model)
    }
}

/// Returns true for the name of a file of weights.
pub(super) fn is_weights(name: &str) -> bool {
    [".safetensors", ".gguf"].iter().any(|extension| name.ends_with(extension))
}

fn is_old(name: &str) -> bool {
    let of_family = |family: &&str| name.starts_with(*family) && is_hub_name(name) && !is_weights(name);
    OLD_MODELS.contains(&name) || OLD_FAMILIES.iter().any(of_family)
}

fn is_hub_name(name: &str) -> bool {
    let edge = |c: char| c == '-' || c == '.';
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !(name.starts_with(edge) || name.ends_with(edge) || name.contains("--") || name.contains(".."))
}

/// It becomes part of a path (`refs/<revision>`) and of an address.
fn is_revision(revision: &str) -> bool {
    let plain =
        |part: &str| is_plain_name(part) && part.chars().all(|c| c.is_ascii_graphic() && !"?#%&".contains(c));
    revision.split('/').all(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_cache_have_ids() {
        let cached = Path::new("/home/me/hub/models--org--a-b/snapshots/0123");
        assert_eq!(cached_id(cached).map(|id| id.model).as_deref(), Some("org/a-b"));
        let old = Path::new("/home/me/hub/models--gpt2/snapshots/0123");
        assert_eq!(cached_id(old).map(|id| id.model).as_deref(), Some("gpt2"));
        assert_eq!(cached_id(Path::new("/home/models--x/y")), None);
    }

    #[test]
    fn ids_are_taken_as_people_paste_them() {
        let check = |input: &str, expected: [&str; 3]| {
            let id = parse_id(input).unwrap_or_else(|| panic!("{input} is no id"));
            assert_eq!([&id.model, &id.revision, &id.file.unwrap_or_default()], expected, "{input}");
        };
        check("org/name", ["org/name", "main", ""]);
        check("org/name@v1", ["org/name", "v1", ""]);
        check("org/x-GGUF:Q4_K_M", ["org/x-GGUF", "main", "Q4_K_M"]);
        check("org/x-GGUF@v1:x.gguf", ["org/x-GGUF", "v1", "x.gguf"]);
        check("https://huggingface.co/org/name", ["org/name", "main", ""]);
        check("https://huggingface.co/org/name/", ["org/name", "main", ""]);
        check("http://hf.co/org/name?library=transformers", ["org/name", "main", ""]);
        check("huggingface.co/org/name#usage", ["org/name", "main", ""]);
        check("https://huggingface.co/org/name/tree/main", ["org/name", "main", ""]);
        check("https://huggingface.co/org/name/tree/refs/pr/1", ["org/name", "refs/pr/1", ""]);
        check("https://huggingface.co/org/x/blob/main/x.Q8_0.gguf", ["org/x", "main", "x.Q8_0.gguf"]);
        check("https://huggingface.co/org/x/resolve/v2/x.gguf?download=true", ["org/x", "v2", "x.gguf"]);
        check("https://huggingface.co/org/name/blob/main/config.json", ["org/name", "main", ""]);
        check("https://huggingface.co/gpt2", ["gpt2", "main", ""]);
        check("https://huggingface.co/gpt2/tree/main", ["gpt2", "main", ""]);
        check("hf://org/name@v1", ["org/name", "v1", ""]);
        check("hf://models/org/name/x.gguf", ["org/name", "main", "x.gguf"]);
        check("gpt2", ["gpt2", "main", ""]);
        check("bert-base-uncased", ["bert-base-uncased", "main", ""]);
    }

    #[test]
    fn other_texts_are_no_ids() {
        for input in [
            "name",
            "model.safetensors",
            "bert-tiny.gguf",
            "a/b/c",
            "org/name:",
            "org/name:../x",
            "org/name:a b",
            "https://example.com/org/name",
            "https://huggingface.co/",
            "https://huggingface.co/datasets/org/name",
            "https://huggingface.co/org/name/tree/",
            "hf://org",
            "C:/models",
        ] {
            assert_eq!(parse_id(input), None, "{input}");
        }
    }
}
