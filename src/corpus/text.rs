//! The text that a model is measured on: one string, whatever it was read from.
//!
//! A `.jsonl`, `.json` or `.parquet` file has one text a row; rows are joined by an empty line, as the papers' scripts do with
//! wikitext (`"\n\n".join(test["text"])`, e.g. <https://github.com/IST-DASLab/gptq/blob/main/datautils.py>). Note that
//! llama.cpp's `wiki.test.raw` is the same text with single line breaks: figures from one do not compare with the other.
//! Every other file is the text itself, byte for byte. Nothing is downloaded.

use std::path::Path;

use serde_json::Value;

use super::rows::{Row, Table};
use super::source::{Content, Source};
use crate::error::{Error, Result};
use crate::io::hub::Hub;

/// What stands between two rows.
const BETWEEN_ROWS: &str = "\n\n";
/// The column with the text.
const COLUMN: &str = "text";
/// The split of a dataset that is measured on where none is named.
const SPLIT: &str = "test";

/// Text to measure a model on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What it was read from, as the user named it.
    pub name: String,
    /// Not empty.
    pub text: String,
}

impl Text {
    /// Opens what the user names: see [`Source::find`]. Tables have a column `text`; the split of a dataset is `test` where
    /// none is named.
    ///
    /// # Errors
    /// A folder, text that is not UTF-8 or that is empty, rows without text, parquet compressed by other means than
    /// Snappy, a dataset that is not in the cache.
    pub fn open(spec: &str) -> Result<Text> {
        Text::open_with(spec, &Hub::from_env().cache)
    }

    fn open_with(spec: &str, cache: &Path) -> Result<Text> {
        let mut texts = Vec::new();
        Source::find(spec, SPLIT, cache)?.read(|file, content| {
            match content {
                Content::Text(text) => texts.push(text),
                Content::Rows(table) => texts.extend(column(file, table)?),
            }
            Ok(())
        })?;
        let text = texts.join(BETWEEN_ROWS);
        if text.trim().is_empty() {
            let hint = "there is nothing to measure on: name a file with some text";
            return Err(Error::malformed(spec, "text", format!("none in {} bytes", text.len()), hint));
        }
        Ok(Text { name: spec.to_owned(), text })
    }
}

/// The text of every row.
fn column(file: &Path, table: Table) -> Result<Vec<String>> {
    let text = |(number, mut row): (usize, Row)| match row.remove(COLUMN) {
        Some(Value::String(text)) => Ok(text),
        other => {
            let found = other.map_or_else(|| names(&row), |value| value.to_string());
            let (place, expected) = (format!("row {number}"), format!("text under {COLUMN:?}"));
            let hint = "each row is a text of its own, under the name text";
            Err(Error::malformed_tensor(file, place, expected, found, hint))
        }
    };
    table.rows.into_iter().enumerate().map(text).collect()
}

fn names(row: &Row) -> String {
    row.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
