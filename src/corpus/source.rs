//! What the user names with one word: standard input, a file, or a dataset in the hub's cache.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::dataset;
use super::rows::Table;
use crate::error::{Error, Result};

/// Where texts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// Files, to be read one after the other.
    Files(Vec<PathBuf>),
}

/// What a file holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Text.
    Text(String),
    /// Rows: the file is `.jsonl`, `.json` or `.parquet`.
    Rows(Table),
}

impl Source {
    /// Finds what the user names, the first of these that it is:
    ///
    /// - `-`: standard input;
    /// - a path;
    /// - `org/name[@revision][:[config/]split]`: a dataset of the hub, in that cache; `split` is what is taken where none
    ///   is named, and the config may be left out where there is one only.
    ///
    /// # Errors
    /// A dataset that is not in the cache, or that has no such split. Whether a path is there shows when it is read.
    pub fn find(spec: &str, split: &str, cache: &Path) -> Result<Source> {
        let path = Path::new(spec);
        match dataset::parse(spec, split) {
            _ if spec == "-" => Ok(Source::Stdin),
            Some(dataset) if !path.exists() => Ok(Source::Files(dataset.files(cache)?)),
            _ => Ok(Source::Files(vec![path.to_owned()])),
        }
    }

    /// Reads every file, and hands its name and content on.
    ///
    /// # Errors
    /// A file that cannot be read, a folder, text that is not UTF-8, a table that is none.
    pub fn read(&self, mut each: impl FnMut(&Path, Content) -> Result<()>) -> Result<()> {
        match self {
            Source::Stdin => {
                let name = Path::new("standard input");
                each(name, Content::Text(utf8(name, stdin()?)?))
            }
            Source::Files(files) => files.iter().try_for_each(|file| each(file, content(file)?)),
        }
    }
}

pub(super) fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn content(file: &Path) -> Result<Content> {
    Ok(match extension(file) {
        "jsonl" | "json" | "parquet" => Content::Rows(Table::read(&[file.to_owned()])?),
        _ => Content::Text(utf8(file, bytes(file)?)?),
    })
}

fn bytes(file: &Path) -> Result<Vec<u8>> {
    if file.is_dir() {
        let what = format!("{}: a folder, where a file of text was expected", file.display());
        return Err(Error::usage(what, "name a file in it: UTF-8 text, .jsonl or .parquet"));
    }
    std::fs::read(file).map_err(|e| Error::io(file, e))
}

fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::io("standard input", e))?;
    Ok(bytes)
}

fn utf8(file: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let found = format!("byte 0x{:02x} at offset {at}", e.as_bytes()[at]);
        let hint =
            "unpack it, or convert it (`iconv -f WINDOWS-1252 -t UTF-8`), or name a .jsonl or .parquet file";
        Error::malformed(file, "UTF-8 text", found, hint)
    })
}
