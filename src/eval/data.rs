//! The text that a model is measured on: a file, standard input, or a dataset of the hub's cache.
//!
//! A `.jsonl`, `.json` or `.parquet` file has one text a row; rows are joined by an empty line, as the papers' scripts do with
//! wikitext (`"\n\n".join(test["text"])`, e.g. <https://github.com/IST-DASLab/gptq/blob/main/datautils.py>). Note that
//! llama.cpp's `wiki.test.raw` is the same text with single line breaks: figures from one do not compare with the other.
//! Every other file is the text itself, byte for byte. Nothing is downloaded.

mod dataset;

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tasks::rows::{Row, Table};
use crate::error::{Error, Result};
use crate::io::hub::Hub;

/// What stands between two rows.
const BETWEEN_ROWS: &str = "\n\n";
/// The column with the text where none is named.
const COLUMN: &str = "text";

/// Text to measure a model on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What it was read from, as the user named it.
    pub name: String,
    /// Not empty.
    pub text: String,
}

impl Text {
    /// Opens what the user names, the first of these that it is:
    ///
    /// - `-`: standard input;
    /// - a path: a `.jsonl`, `.json` or `.parquet` file with a column `text`, or a file of UTF-8 text;
    /// - `org/name[@revision][:[config/]split]`: a dataset of the hub, from its cache; the split is `test` where none
    ///   is given, and the config may be left out where there is one only.
    ///
    /// # Errors
    /// A folder, text that is not UTF-8 or that is empty, rows without text, parquet compressed by other means than
    /// Snappy, a dataset that is not in the cache.
    pub fn open(spec: &str) -> Result<Text> {
        Text::open_with(spec, &Hub::from_env().cache)
    }

    fn open_with(spec: &str, cache: &Path) -> Result<Text> {
        let (path, dataset) = (Path::new(spec), dataset::parse(spec));
        let text = match dataset {
            _ if spec == "-" => utf8(Path::new("standard input"), stdin()?)?,
            Some(dataset) if !path.exists() => joined(&dataset.files(cache)?)?,
            _ => joined(&[path.to_owned()])?,
        };
        if text.trim().is_empty() {
            let hint = "there is nothing to measure on: name a file with some text";
            return Err(Error::malformed(spec, "text", format!("none in {} bytes", text.len()), hint));
        }
        Ok(Text { name: spec.to_owned(), text })
    }
}

/// The text of files, one after the other.
fn joined(files: &[PathBuf]) -> Result<String> {
    let mut texts = Vec::new();
    for file in files {
        match extension(file) {
            "jsonl" | "json" | "parquet" => texts.extend(column(file)?),
            _ => texts.push(utf8(file, read(file)?)?),
        }
    }
    Ok(texts.join(BETWEEN_ROWS))
}

/// The text of every row.
fn column(file: &Path) -> Result<Vec<String>> {
    let text = |(number, mut row): (usize, Row)| match row.remove(COLUMN) {
        Some(Value::String(text)) => Ok(text),
        other => {
            let found = other.map_or_else(|| names(&row), |value| value.to_string());
            let (place, expected) = (format!("row {number}"), format!("text under {COLUMN:?}"));
            let hint = "each row is a text of its own, under the name text";
            Err(Error::malformed_tensor(file, place, expected, found, hint))
        }
    };
    Table::read(&[file.to_owned()])?.rows.into_iter().enumerate().map(text).collect()
}

fn names(row: &Row) -> String {
    row.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn read(file: &Path) -> Result<Vec<u8>> {
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

#[cfg(test)]
mod tests;
