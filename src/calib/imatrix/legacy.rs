//! llama.cpp's older form of an importance matrix, `.dat`, little-endian: the number of entries (i32); for each the length of
//! its name, the name, how many chunks were read (i32), the number of values (i32), and these (f32): the mean squares times
//! the chunks. Behind them, in newer files, the number of chunks and the name of the text.
//!
//! It does not say how long chunks were: 512 tokens, llama.cpp's default, are assumed. Means do not depend on that.

use std::path::Path;

use super::entry::{AGAIN, Entry, Imatrix, floats};
use crate::error::{Error, Result};

/// Tokens of a chunk.
const CHUNK: u16 = 512;

/// A position in the bytes of a file.
struct Reader<'a> {
    file: &'a Path,
    rest: &'a [u8],
}

/// What the file says: all but its entries, and these.
pub(super) fn entries(file: &Path, bytes: &[u8]) -> Result<(Imatrix, Vec<Entry>)> {
    let mut reader = Reader { file, rest: bytes };
    let count = reader.size()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(reader.entry()?);
    }
    let mut imatrix = Imatrix { chunk_size: u32::from(CHUNK), ..Imatrix::default() };
    if !reader.rest.is_empty() {
        imatrix.chunk_count = reader.size()? as u32;
        imatrix.datasets = vec![reader.text()?];
    }
    Ok((imatrix, entries))
}

impl<'a> Reader<'a> {
    fn entry(&mut self) -> Result<Entry> {
        let tensor = self.text()?;
        // llama.cpp takes values of no chunks as they are.
        let chunks = self.size()?.max(1) as f32;
        let bytes = self.size()?.saturating_mul(4);
        let values = floats(self.file, &tensor, self.take(bytes)?)?;
        let sums = values.iter().map(|value| value * f32::from(CHUNK)).collect();
        Ok(Entry { tensor, sums, counts: vec![chunks * f32::from(CHUNK)] })
    }

    fn text(&mut self) -> Result<String> {
        let len = self.size()?;
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|e| self.wrong("a name in UTF-8", e))
    }

    /// A number that is not below zero.
    fn size(&mut self) -> Result<usize> {
        let bytes = self.take(4)?.first_chunk().expect("four bytes were taken");
        let number = i32::from_le_bytes(*bytes);
        usize::try_from(number).map_err(|_| self.wrong("a size", number))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.wrong(&format!("{len} more bytes"), self.rest.len()));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn wrong(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        let expected = format!("an importance matrix (a GGUF, or llama.cpp's .dat): {expected}");
        Error::malformed(self.file, expected, found, AGAIN)
    }
}
