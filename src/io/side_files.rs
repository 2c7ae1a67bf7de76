//! The files that travel with the weights: tokenizer, templates, generation settings, modelling code, licence, and the
//! module folders of sentence-transformers.
//!
//! Not among them: config.json (rewritten), weights in other formats, README.md (a new card is written), hidden files.

use std::path::Path;

use serde_json::Value;

use super::SideFile;
use super::index::is_plain_name;
use crate::error::{Error, Result};

const NAMES: &[&str] = &[
    "added_tokens.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tekken.json",
];
const PREFIXES: &[&str] = &["tokenizer", "vocab", "chat_template", "LICENSE", "LICENCE", "NOTICE"];
const SUFFIXES: &[&str] = &["processor_config.json", ".model", ".py", ".jinja", ".tiktoken"];
/// The folder of chat templates beside the model's own, as transformers saves them.
const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";
const WEIGHTS: &[&str] =
    &[".bin", ".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack", ".npz", ".tflite"];

/// Returns true if a file of the checkpoint's folder travels with the weights, judged by its name.
pub(crate) fn travels(name: &str) -> bool {
    let chosen = NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    chosen && !name.starts_with('.') && !WEIGHTS.iter().any(|suffix| name.ends_with(suffix))
}

/// The files that travel, by name. Links are followed: the hub's cache is made of them. Before one is copied, [`stays_inside`]
/// tells whether it may be.
pub(crate) fn find(folder: &Path) -> Result<Vec<SideFile>> {
    let mut found = files(folder, "")?;
    found.retain(|file| travels(&file.name));
    found.extend(additional_templates(folder)?);
    for module in module_folders(folder)? {
        found.extend(files(&folder.join(&module), &format!("{module}/"))?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}

/// The chat templates beside the model's own, each in a file.
fn additional_templates(folder: &Path) -> Result<Vec<SideFile>> {
    let inner = folder.join(ADDITIONAL_TEMPLATES);
    if !inner.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = files(&inner, &format!("{ADDITIONAL_TEMPLATES}/"))?;
    found.retain(|file| additional_template(&file.name).is_some());
    Ok(found)
}

/// The name of an additional chat template, by its file's name within the model's folder.
pub(crate) fn additional_template(file: &str) -> Option<&str> {
    file.strip_prefix(ADDITIONAL_TEMPLATES)?.strip_prefix('/')?.strip_suffix(".jinja")
}

/// Regular files of a folder that are not hidden, their names behind `prefix`.
fn files(folder: &Path, prefix: &str) -> Result<Vec<SideFile>> {
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let (path, name) = (entry.path(), entry.file_name());
        match name.to_str() {
            Some(name) if !name.starts_with('.') && path.is_file() => {
                files.push(SideFile { name: format!("{prefix}{name}"), bytes: None, path });
            }
            _ => {}
        }
    }
    Ok(files)
}

/// Returns true if a side file of a folder may be copied: a link in it may lead to files of the folder, and of the folder of
/// the hub's cache that the model is in, whose snapshots are links to blobs.
pub(crate) fn stays_inside(folder: &Path, file: &Path) -> bool {
    let (Ok(folder), Ok(file)) = (folder.canonicalize(), file.canonicalize()) else { return false };
    file.starts_with(repository(&folder).unwrap_or(&folder))
}

/// The folder of a repository of the hub's cache, `models--org--name`, by a snapshot of it or a folder in one.
fn repository(snapshot: &Path) -> Option<&Path> {
    let snapshots = snapshot.ancestors().skip(1).find(|folder| folder.ends_with("snapshots"))?;
    let repository = snapshots.parent()?;
    repository.file_name()?.to_str()?.starts_with("models--").then_some(repository)
}

/// The subfolders that modules.json names (`1_Pooling`, `2_Dense`), where it has any. Their weights are the modules'
/// own, and travel with them.
pub(crate) fn module_folders(folder: &Path) -> Result<Vec<String>> {
    let file = folder.join("modules.json");
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let bytes = super::read_whole(&file)?;
    let folders = parse_modules(&file, &bytes)?;
    Ok(folders.into_iter().filter(|name| folder.join(name).is_dir()).collect())
}

/// The subfolders named by modules.json: each a plain name.
pub fn parse_modules(file: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    let modules: Vec<Value> = serde_json::from_slice(bytes)
        .map_err(|e| Error::malformed(file, "a JSON list of modules", e, "mend or delete this file"))?;
    let paths =
        modules.iter().filter_map(|module| module.get("path")?.as_str()).filter(|path| !path.is_empty());
    paths.map(|path| plain_module(file, path)).collect()
}

fn plain_module(file: &Path, path: &str) -> Result<String> {
    if is_plain_name(path) {
        return Ok(path.to_owned());
    }
    let hint = "modules.json may only name folders beside it: do not trust this checkpoint, or mend the file";
    Err(Error::malformed(file, "the plain name of a subfolder", format!("{path:?}"), hint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_travels() {
        let yes = "tokenizer.json tokenizer_config.json tokenizer.model vocab.json vocab.txt merges.txt spiece.model \
            special_tokens_map.json added_tokens.json generation_config.json chat_template.jinja chat_template.json \
            preprocessor_config.json processor_config.json modeling_x.py LICENSE LICENSE.md modules.json \
            sentence_bert_config.json";
        let no = "config.json README.md pytorch_model.bin model.safetensors model.safetensors.index.json x.gguf model.pt \
            model.onnx tf_model.h5 .gitattributes .tokenizer.json quantize_config.json flax_model.msgpack vocab.bin \
            train.log";
        for name in yes.split_whitespace() {
            assert!(travels(name), "{name} should travel");
        }
        for name in no.split_whitespace() {
            assert!(!travels(name), "{name} should stay");
        }
    }

    #[test]
    fn modules_of_sentence_transformers_travel_with_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("modules.json", r#"[{"path":""},{"path":"1_Pooling"},{"path":"3_Normalize"}]"#);
        put("1_Pooling/config.json", "{}");
        put("1_Pooling/.hidden", "");
        put("onnx/model.onnx", "");
        put("additional_chat_templates/tool_use.jinja", "");
        put("additional_chat_templates/notes.txt", "");
        put("README.md", "");
        let found = find(folder.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["1_Pooling/config.json", "additional_chat_templates/tool_use.jinja", "modules.json"]
        );
        assert_eq!(additional_template(names[1]), Some("tool_use"));
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_model_are_told() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = root.path().join("models--org--name/snapshots/abc");
        let blobs = root.path().join("models--org--name/blobs");
        let folder = root.path().join("model");
        [&snapshot, &blobs, &folder].into_iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
        for file in [blobs.join("1"), root.path().join("secret"), folder.join("own"), folder.join("plain")] {
            std::fs::write(file, "").unwrap();
        }
        let link = |target: &str, place: &Path| std::os::unix::fs::symlink(target, place).unwrap();
        link("../../blobs/1", &snapshot.join("tokenizer.json"));
        link("../../../secret", &snapshot.join("vocab.txt"));
        link("own", &folder.join("merges.txt"));
        link("../secret", &folder.join("vocab.txt"));
        link("../models--org--name/blobs/1", &folder.join("tokenizer.json"));
        let check = |folder: &Path, name: &str, inside: bool| {
            assert_eq!(stays_inside(folder, &folder.join(name)), inside, "{name}");
        };
        check(&snapshot, "tokenizer.json", true);
        check(&snapshot, "vocab.txt", false);
        check(&folder, "plain", true);
        check(&folder, "merges.txt", true);
        check(&folder, "vocab.txt", false);
        check(&folder, "tokenizer.json", false);
        check(&folder, "missing", false);
    }

    #[test]
    fn modules_may_not_point_out_of_the_folder() {
        for path in ["../x", "/etc", "a/b", "..", "a\\b", "."] {
            let json = serde_json::json!([{ "path": path }]).to_string();
            let error = parse_modules(Path::new("modules.json"), json.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("plain name"), "{path}: {error}");
        }
    }
}
