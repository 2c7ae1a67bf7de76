//! The weight files of a folder.

use std::path::{Path, PathBuf};

use super::index::INDEX_FILE;
use crate::error::{Error, Result};

/// The weights of a model in one file.
const SINGLE_FILE: &str = "model.safetensors";
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
    let (safetensors, ggufs) = (with_extension(folder, "safetensors")?, with_extension(folder, "gguf")?);
    match (safetensors.as_slice(), ggufs.as_slice()) {
        ([one], _) => Ok(Weights::Single(one.clone())),
        ([], [one]) => Ok(Weights::Gguf(one.clone())),
        ([], []) => Err(no_weights(folder)),
        ([], several) | (several, _) => Err(ambiguous(folder, several)),
    }
}

/// Returns true if a folder has weights that could be opened.
pub(crate) fn has_weights(folder: &Path) -> bool {
    find_weights(folder).is_ok()
}

fn no_weights(folder: &Path) -> Error {
    let expected = format!("{INDEX_FILE}, a .safetensors file or a .gguf file");
    Error::malformed(folder, expected, "none of them", HOW_TO_CONVERT)
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
