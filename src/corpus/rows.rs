//! Reads the rows of a dataset: parquet (uncompressed or Snappy), JSON lines, a JSON list, CSV and TSV with a header. Every row
//! becomes a JSON object; CSV fields are always texts. Files are hostile: every error names the file and the row.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value as Json;

use super::encoding::{Encoding, UTF8_MARK};
use super::pages::lying_page;
use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::regular_len;
use crate::panics;

/// The most rows of a parquet file: so many, and so many more for each of its bytes. A column that repeats one value takes next
/// to none.
const MOST_ROWS: [u64; 2] = [1 << 20, 64];
/// The columns of a row by name.
pub type Row = serde_json::Map<String, Json>;

/// The location of a row in a dataset, for errors.
#[derive(Debug, Clone, Copy)]
pub struct RowLocation<'a> {
    /// The file.
    pub file: &'a Path,
    /// The row's number in the file, from 0.
    pub row: usize,
}

/// The rows of a split, from one or more files.
#[derive(Debug, Clone, Default)]
pub struct DataTable {
    /// The rows of all files.
    pub rows: Vec<Row>,
    /// Each file, with the index of its first row.
    files: Vec<(PathBuf, usize)>,
}

impl DataTable {
    /// Reads the files of a split, one after the other.
    ///
    /// # Errors
    /// A file that cannot be read or whose content does not match its extension; no rows at all.
    pub fn read(files: &[PathBuf]) -> Result<DataTable> {
        let mut table = DataTable::default();
        for file in files {
            table.files.push((file.clone(), table.rows.len()));
            read_file(file, &mut table.rows)?;
        }
        if let (true, Some(file)) = (table.rows.is_empty(), files.first()) {
            return Err(Error::malformed(file, "at least one row", "none", "is the file complete?"));
        }
        Ok(table)
    }

    /// The file of a row, and its number there.
    pub(crate) fn place(&self, row: usize) -> RowLocation<'_> {
        let after = self.files.partition_point(|(_, first)| *first <= row);
        let (file, first) = &self.files[after.checked_sub(1).expect("the first file begins at row 0")];
        RowLocation { file, row: row - first }
    }
}

/// The extension of a file's name; empty if it has none.
pub(super) fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn read_file(file: &Path, rows: &mut Vec<Row>) -> Result<()> {
    regular_len(file).map_err(|e| e.where_missing("name a .jsonl, .json, .csv or .parquet file"))?;
    let opened = File::open(file).map_err(|e| Error::io(file, e))?;
    match extension(file) {
        "parquet" => parquet(file, opened, rows),
        "jsonl" => json_lines(file, text(file, opened)?, rows),
        "json" => json(file, text(file, opened)?, rows),
        "csv" => csv(file, text(file, opened)?, b',', rows),
        "tsv" => csv(file, text(file, opened)?, b'\t', rows),
        _ => Err(Error::unsupported(
            format!("{}: llmc cannot read this form of dataset", file.display()),
            "give .parquet, .jsonl, .json, .csv or .tsv files",
        )),
    }
}

/// The text of a file, without the mark that its first bytes may be.
fn text(file: &Path, opened: File) -> Result<BufReader<File>> {
    let mut reader = BufReader::new(opened);
    match Encoding::of(reader.fill_buf().map_err(|e| Error::io(file, e))?) {
        None => {}
        Some(Encoding::Utf8) => reader.consume(UTF8_MARK.len()),
        Some(Encoding::Utf16(_)) => {
            let hint = "convert it: iconv -f UTF-16 -t UTF-8";
            return Err(Error::malformed(file, "UTF-8 text", "UTF-16", hint));
        }
    }
    Ok(reader)
}

fn json_lines(file: &Path, reader: impl BufRead, rows: &mut Vec<Row>) -> Result<()> {
    let first = rows.len();
    for line in reader.lines() {
        let row = rows.len() - first;
        let line = line.map_err(|e| wrong(file, row, "a line of UTF-8", e))?;
        if !line.trim().is_empty() {
            let fields = serde_json::from_str(&line);
            rows.push(fields.map_err(|e| wrong(file, row, "one JSON object per line", e))?);
        }
    }
    Ok(())
}

fn json(file: &Path, reader: impl BufRead, rows: &mut Vec<Row>) -> Result<()> {
    let value: Json = serde_json::from_reader(reader).map_err(|e| {
        Error::malformed(file, "a JSON list of objects", e, "a file of JSON lines must be named *.jsonl")
    })?;
    let Json::Array(items) = value else {
        return Err(Error::malformed(
            file,
            "a JSON list of objects",
            "another JSON value",
            "give a list of rows, or JSON lines in a file named *.jsonl",
        ));
    };
    for (row, item) in items.into_iter().enumerate() {
        match item {
            Json::Object(fields) => rows.push(fields),
            other => return Err(wrong(file, row, "a JSON object", other)),
        }
    }
    Ok(())
}

fn csv(file: &Path, text: impl BufRead, delimiter: u8, rows: &mut Vec<Row>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text);
    let headers = reader.headers().map_err(|e| wrong(file, 0, "a header", e))?.clone();
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|e| wrong(file, row, "a record as long as the header", e))?;
        let fields = headers.iter().zip(&record);
        rows.push(fields.map(|(name, field)| (name.to_owned(), Json::from(field))).collect());
    }
    Ok(())
}

/// Reads a parquet file. Catches panics: the `parquet` crate panics on some broken files that pass the checks here.
fn parquet(file: &Path, opened: File, rows: &mut Vec<Row>) -> Result<()> {
    let read = panics::caught(|| parquet_rows(file, opened));
    rows.extend(read.unwrap_or_else(|_| Err(broken(file, "damaged data")))?);
    Ok(())
}

fn parquet_rows(file: &Path, opened: File) -> Result<Vec<Row>> {
    let mapped = MappedFile::open(file)?;
    let size = mapped.bytes().len() as u64;
    let reader = SerializedFileReader::new(opened).map_err(|e| broken(file, e))?;
    for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        check_column(file, mapped.bytes(), column)?;
    }
    let rows = reader.metadata().file_metadata().num_rows();
    let [any, per_byte] = MOST_ROWS;
    if u64::try_from(rows).is_ok_and(|rows| rows > size.saturating_mul(per_byte).saturating_add(any)) {
        return Err(broken(file, format!("{rows} rows in {size} bytes")));
    }
    let mut rows = Vec::new();
    for (row, record) in reader.get_row_iter(None).map_err(|e| broken(file, e))?.enumerate() {
        match record.map_err(|e| wrong(file, row, "a row of the parquet file", e))?.to_json_value() {
            Json::Object(fields) => rows.push(fields),
            other => return Err(wrong(file, row, "a row of named columns", other)),
        }
    }
    Ok(rows)
}

/// Refuses a column that lies outside the file, claims more than it holds, or uses an unsupported codec.
fn check_column(file: &Path, bytes: &[u8], column: &ColumnChunkMetaData) -> Result<()> {
    let size = bytes.len() as u64;
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let place = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
    let end = place.and_then(|(start, length)| start.checked_add(length));
    if end.is_none_or(|end| end > size) || column.num_values() < 0 || column.uncompressed_size() < 0 {
        return Err(broken(file, format!("column {} outside the file", column.column_path())));
    }
    if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
        return Err(Error::unsupported(
            format!("{}: columns are compressed with {}", file.display(), column.compression()),
            "llmc reads Snappy and uncompressed parquet: rewrite it (pandas: read_parquet, then to_parquet), or use .jsonl",
        ));
    }
    let place = place.zip(end).and_then(|((start, _), end)| bytes.get(start as usize..end as usize));
    if let Some([packed, claimed]) = place.and_then(lying_page) {
        let found =
            format!("column {}: a page of {packed} bytes that claims {claimed}", column.column_path());
        return Err(broken(file, found));
    }
    Ok(())
}

fn broken(file: &Path, found: impl std::fmt::Display) -> Error {
    Error::malformed(file, "a parquet file", found, "is the download complete?")
}

fn wrong(file: &Path, row: usize, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::malformed_tensor(
        file,
        format!("row {row}"),
        expected,
        found,
        "is the file complete, and does its content match its extension?",
    )
}
