//! The text to evaluate a model on, as one string.
//!
//! A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file has one text per row; rows of null are left out, aloud. Rows are
//! joined by an empty line, as the papers' scripts do with wikitext (`"\n\n".join(test["text"])`, e.g.
//! <https://github.com/IST-DASLab/gptq/blob/main/datautils.py>). llama.cpp's `wiki.test.raw` is the same text with single line
//! breaks: figures from the two do not compare.
//! Any other file is the text itself, byte for byte but for a byte order mark (UTF-16 becomes UTF-8). Downloads nothing.

use std::path::Path;

use serde_json::Value;

use super::rows::{DataTable, Row};
use super::source::{Content, TextSource};
use crate::error::{Error, Result};
use crate::io::hub::Hub;

const BETWEEN_ROWS: &str = "\n\n";
const COLUMN: &str = "text";
/// The default split of a dataset.
const SPLIT: &str = "test";

/// A text to evaluate a model on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// The source, as the user named it.
    pub name: String,
    /// The text; not empty.
    pub text: String,
}

impl Text {
    /// Reads a text by its name ([`TextSource::find`]). Tables need a column `text`; the default split of a dataset is `test`.
    ///
    /// # Errors
    /// A folder, text that is empty or not UTF-8, rows without text, parquet compressed with a codec other than Snappy, a
    /// dataset that is not in the cache.
    pub(crate) fn open(spec: &str) -> Result<Text> {
        Text::open_with(spec, &Hub::from_env().cache)
    }

    fn open_with(spec: &str, cache: &Path) -> Result<Text> {
        let mut texts = Vec::new();
        TextSource::find(spec, SPLIT, cache)?.read(|file, content| {
            match content {
                Content::Text(text) => texts.push(text),
                Content::Rows(table) => texts.extend(column(file, table)?),
            }
            Ok(())
        })?;
        let text = texts.join(BETWEEN_ROWS);
        if text.trim().is_empty() {
            let hint = "name a file that contains text";
            return Err(Error::malformed(spec, "text", format!("none in {} bytes", text.len()), hint));
        }
        Ok(Text { name: spec.to_owned(), text })
    }
}

fn column(file: &Path, table: DataTable) -> Result<Vec<String>> {
    let rows = table.rows.len();
    let given = |(_, row): &(usize, Row)| row.get(COLUMN) != Some(&Value::Null);
    let rows_with_text = table.rows.into_iter().enumerate().filter(given);
    let texts: Vec<String> =
        rows_with_text.map(|(number, row)| row_text(file, number, row)).collect::<Result<_>>()?;
    warn_of_null_rows(file, rows - texts.len());
    Ok(texts)
}

/// Tells how many rows of a table have null in the place of a text.
pub(crate) fn warn_of_null_rows(file: &Path, rows: usize) {
    if rows > 0 {
        tracing::warn!("{}: {rows} rows have null instead of a text: left out", file.display());
    }
}

fn row_text(file: &Path, number: usize, mut row: Row) -> Result<String> {
    let found = match row.remove(COLUMN) {
        Some(Value::String(text)) => return Ok(text),
        Some(other) => other.to_string(),
        None => row.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    let expected = format!("text under {COLUMN:?}");
    let hint = "each row must have its text in a column named `text`";
    Err(Error::malformed_tensor(file, format!("row {number}"), expected, found, hint))
}

#[cfg(test)]
mod tests;
