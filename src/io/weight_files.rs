//! The weight files of a folder.

use std::path::{Path, PathBuf};

use super::index::INDEX_FILE;
use crate::error::{Error, Result};

/// The weights of a model in one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The weights of a LoRA adapter, which PEFT saves in a folder of their own.
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The hint for weights in a format that llmc does not read.
pub(crate) const HOW_TO_CONVERT: &str = "llmc reads .safetensors and .gguf; save the model again with `save_pretrained(folder, safe_serialization=True)`";

/// The weight files of a folder.
pub(crate) enum Weights {
    Sharded(PathBuf),
    Single(PathBuf),
    Gguf(PathBuf),
}

pub(crate) fn find_weights(folder: &Path) -> Result<Weights> {
    let (index, single) = (folder.join(INDEX_FILE), folder.join(SINGLE_FILE));
    if index.is_file() {
        return Ok(Weights::Sharded(index));
    }
    if single.is_file() {
        return Ok(Weights::Single(single));
    }
    let (mut safetensors, ggufs) = (with_extension(folder, "safetensors")?, with_extension(folder, "gguf")?);
    let files = safetensors.len();
    safetensors.retain(|file| !file.ends_with(ADAPTER_WEIGHTS));
    match (safetensors.as_slice(), ggufs.as_slice()) {
        ([one], _) => Ok(Weights::Single(one.clone())),
        ([], [one]) => Ok(Weights::Gguf(one.clone())),
        ([], [first, ..]) if is_one_split(&ggufs) => Ok(Weights::Gguf(first.clone())),
        ([], []) if files > 0 => Err(only_adapter(folder)),
        ([], []) => Err(no_weights(folder)),
        ([], several) | (several, _) => Err(ambiguous(folder, several)),
    }
}

/// The names of the files in a folder and in the folders in it, those as `FOLDER/NAME`. What cannot be read counts as missing.
pub(crate) fn names_below(folder: &Path) -> Vec<String> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = folder.read_dir().map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        entries.unwrap_or_default()
    };
    let (folders, files): (Vec<_>, Vec<_>) = list(folder).into_iter().partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| list(folder)).chain(files).filter(|path| path.is_file());
    let name = |path: PathBuf| Some(path.strip_prefix(folder).ok()?.to_str()?.replace('\\', "/"));
    below.filter_map(name).collect()
}

/// Returns true if a folder has weights that could be opened.
pub(crate) fn has_weights(folder: &Path) -> bool {
    find_weights(folder).is_ok()
}

fn no_weights(folder: &Path) -> Error {
    let expected = format!("{INDEX_FILE}, a .safetensors file or a .gguf file");
    Error::malformed(folder, expected, "none of them", HOW_TO_CONVERT)
}

fn only_adapter(folder: &Path) -> Error {
    let hint = "merge it into its model with PEFT's merge_and_unload, and name the folder of the result; \
                `llmc eval MODEL --adapter FOLDER` evaluates it as it is";
    Error::malformed(folder, "the weights of a model", "an adapter without its model", hint)
}

/// Returns true if GGUF files, in name order, are the parts of one model: `NAME-00001-of-00003.gguf` and so on.
pub(crate) fn is_one_split(files: &[PathBuf]) -> bool {
    let count = files.len();
    let part = |file: &PathBuf, number: usize| {
        let end = format!("-{number:05}-of-{count:05}.gguf");
        file.file_name()?.to_str()?.strip_suffix(&end).map(str::to_owned)
    };
    let mut stems = files.iter().zip(1..).map(|(file, number)| part(file, number));
    let first = stems.next().flatten();
    first.is_some() && stems.all(|stem| stem == first)
}

fn ambiguous(folder: &Path, files: &[PathBuf]) -> Error {
    let names: Vec<_> = files.iter().take(4).filter_map(|file| file.file_name()?.to_str()).collect();
    let found = format!("{} weight files without an index: {}…", files.len(), names.join(", "));
    let hint = format!("name one of them, or put {INDEX_FILE} back beside them");
    Error::malformed(folder, "one weight file, or an index", found, hint)
}

/// Files of a folder by extension, hidden ones left out, in name order.
fn with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        if !hidden && has_extension(&path, extension) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
