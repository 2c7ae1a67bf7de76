//! The source of a text, which the user names with one word: standard input, a file, or a dataset in the hub's cache.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::dataset;
use super::encoding::{Encoding, UTF8_MARK};
use super::rows::{DataTable, extension};
use crate::error::{Error, Result};
use crate::io::regular_len;

/// The hint about a missing file.
const NAME_TEXT: &str =
    "name a text, a .jsonl or .parquet file, or a dataset in the hub's cache: org/name:split";

/// The place that texts are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextSource {
    /// Standard input.
    Stdin,
    /// Files, read one after the other.
    Files(Vec<PathBuf>),
}

/// The content of a file.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Text.
    Text(String),
    /// Rows: the file is `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`.
    Rows(DataTable),
}

impl TextSource {
    /// Resolves a name from the user. The first match of these counts:
    ///
    /// - `-`: standard input;
    /// - an existing path;
    /// - `org/name[@revision][:[config/]split]`: a dataset of the hub, in `cache`. The default is `split`; the config is
    ///   optional if the dataset has only one;
    /// - any other text is a path.
    ///
    /// # Errors
    /// A dataset that is not in the cache, or that has no such split. A missing file is an error of [`TextSource::read`].
    pub(crate) fn find(spec: &str, split: &str, cache: &Path) -> Result<TextSource> {
        let path = Path::new(spec);
        match dataset::parse(spec, split) {
            _ if spec == "-" => Ok(TextSource::Stdin),
            Some(dataset) if !path.exists() => Ok(TextSource::Files(dataset.files(cache)?)),
            _ => Ok(TextSource::Files(vec![path.to_owned()])),
        }
    }

    /// Reads every file and passes its name and content to `each`.
    ///
    /// # Errors
    /// A folder, a file that cannot be read, text that is not UTF-8, a malformed table.
    pub(crate) fn read(&self, mut each: impl FnMut(&Path, Content) -> Result<()>) -> Result<()> {
        match self {
            TextSource::Stdin => {
                let name = Path::new("standard input");
                each(name, Content::Text(text(name, stdin()?)?))
            }
            TextSource::Files(files) => files.iter().try_for_each(|file| each(file, content(file)?)),
        }
    }
}

fn content(file: &Path) -> Result<Content> {
    Ok(match extension(file) {
        "jsonl" | "json" | "csv" | "tsv" | "parquet" => Content::Rows(DataTable::read(&[file.to_owned()])?),
        _ => Content::Text(text(file, bytes(file)?)?),
    })
}

fn bytes(file: &Path) -> Result<Vec<u8>> {
    if file.is_dir() {
        let what = format!("{}: expected a text file, found a folder", file.display());
        return Err(Error::usage(what, "name a file in it: UTF-8 text, .jsonl, .csv or .parquet"));
    }
    regular_len(file).map_err(|e| e.where_missing(NAME_TEXT))?;
    std::fs::read(file).map_err(|e| Error::io(file, e))
}

fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::io("standard input", e))?;
    Ok(bytes)
}

/// Text in UTF-8, or in UTF-16 where it begins with the mark of that; the mark itself is left out.
fn text(file: &Path, mut bytes: Vec<u8>) -> Result<String> {
    match Encoding::of(&bytes) {
        Some(Encoding::Utf8) => drop(bytes.drain(..UTF8_MARK.len())),
        Some(Encoding::Utf16(unit)) => return utf16(file, &bytes, unit),
        None => {}
    }
    utf8(file, bytes)
}

fn utf16(file: &Path, bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String> {
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let decoded = char::decode_utf16(units.iter().map(|&bytes| unit(bytes))).collect::<Result<String, _>>();
    decoded.ok().filter(|_| rest.is_empty()).ok_or_else(|| {
        Error::malformed(file, "UTF-16 text, as its first bytes say", "something else", UNPACK)
    })
}

const UNPACK: &str =
    "unpack or convert it (`iconv -f WINDOWS-1252 -t UTF-8`), or give a .jsonl or .parquet file";

fn utf8(file: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let found = format!("byte 0x{:02x} at offset {at}", e.as_bytes()[at]);
        Error::malformed(file, "UTF-8 text", found, UNPACK)
    })
}
