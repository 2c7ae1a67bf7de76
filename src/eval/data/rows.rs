//! One column of a table of texts: JSON lines and parquet.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

use crate::error::{Error, Result};

/// Adds `column` of every line of JSON; empty lines are none.
pub(super) fn json_lines(file: &Path, content: &str, column: &str, texts: &mut Vec<String>) -> Result<()> {
    for (number, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |found: String| not_text(file, format!("line {}", number + 1), column, found);
        let row: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        match row.get(column) {
            Some(Value::String(text)) => texts.push(text.clone()),
            other => return Err(wrong(other.map_or("no such field".into(), Value::to_string))),
        }
    }
    Ok(())
}

/// Adds `column` of every row. Other columns are not read.
pub(super) fn parquet(file: &Path, column: &str, texts: &mut Vec<String>) -> Result<()> {
    let opened = File::open(file).map_err(|e| Error::io(file, e))?;
    let broken = |e: ParquetError| Error::malformed(file, "a parquet file", e, "download it again");
    let reader = SerializedFileReader::new(opened).map_err(broken)?;
    let projection = projection(file, &reader, column)?;
    check_compression(file, &reader, column)?;
    for (number, row) in reader.get_row_iter(Some(projection)).map_err(broken)?.enumerate() {
        match text(row.map_err(broken)?) {
            Ok(text) => texts.push(text),
            Err(found) => return Err(not_text(file, format!("row {}", number + 1), column, found)),
        }
    }
    Ok(())
}

fn text(row: Row) -> Result<String, String> {
    match row.into_columns().pop() {
        Some((_, Field::Str(text))) => Ok(text),
        Some((_, other)) => Err(other.to_string()),
        None => Err("no columns".into()),
    }
}

/// The schema with that column alone.
fn projection(file: &Path, reader: &impl FileReader, column: &str) -> Result<Type> {
    let schema = reader.metadata().file_metadata().schema();
    let fields = schema.get_fields();
    let Some(field) = fields.iter().find(|field| field.name() == column) else {
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        return Err(not_text(file, "columns".into(), column, names.join(", ")));
    };
    let one = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build();
    one.map_err(|e| Error::malformed(file, "a parquet schema", e, "download it again"))
}

fn check_compression(file: &Path, reader: &impl FileReader, column: &str) -> Result<()> {
    let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    let mut codecs = chunks.filter(|chunk| chunk.column_path().string() == column).map(|c| c.compression());
    match codecs.find(|codec| !matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY)) {
        Some(codec) => {
            let what = format!("{}: compressed with {codec}; llmc reads Snappy", file.display());
            let hint = "write it again: pandas.read_parquet(FILE).to_parquet(NEW, compression='snappy')";
            Err(Error::unsupported(what, hint))
        }
        None => Ok(()),
    }
}

fn not_text(file: &Path, place: String, column: &str, found: String) -> Error {
    let expected = format!("text under {column:?}");
    Error::malformed_tensor(
        file,
        place,
        expected,
        found,
        "each row is a text of its own, in a column called text",
    )
}
