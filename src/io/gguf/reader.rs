//! Reading GGUF's little-endian primitives and metadata values out of untrusted bytes.
//!
//! Nothing is allocated for a count that the remaining bytes cannot hold, and arrays nest only so deep.

use std::path::Path;

use super::value::{Array, Metadata, Value};
use crate::error::{Error, Result};

/// Arrays of arrays of …: files in the wild nest once.
const MAX_DEPTH: usize = 4;
/// Elements of an array of one of the types that [`Array`] has no compact form for.
const MAX_UNUSUAL: u64 = 1 << 20;
/// The hint for every truncated file.
pub(super) const DOWNLOAD_AGAIN: &str = "the file is truncated or damaged: download or convert it again";

/// A position in the bytes of a file.
pub(super) struct Reader<'a> {
    pub file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Reader { file, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about the entry `what`, at this place of the file.
    pub(crate) fn error(
        &self,
        what: &str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::malformed_tensor(self.file, what, expected, found, DOWNLOAD_AGAIN)
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            let found = format!("{} bytes left in the file", self.remaining());
            return Err(self.error(what, format!("{len} bytes at offset {}", self.at), found));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.take(N, what)?.try_into().expect("take gives N bytes"))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of entries of at least `min_bytes` each, bounded by what the file still holds.
    pub(crate) fn count(&mut self, min_bytes: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let most = (self.remaining() / min_bytes) as u64;
        if count > most {
            let expected = format!("at most {most} entries (the file has {} bytes left)", self.remaining());
            return Err(self.error(what, expected, count));
        }
        Ok(count as usize)
    }

    /// A length-prefixed UTF-8 string.
    pub(crate) fn string(&mut self, what: &str) -> Result<String> {
        let len = self.count(1, what)?;
        let bytes = self.take(len, what)?;
        let text = std::str::from_utf8(bytes).map_err(|e| self.error(what, "UTF-8 text", e))?;
        Ok(text.to_owned())
    }

    /// `count` key/value pairs.
    pub(crate) fn metadata(&mut self, count: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        for index in 0..count {
            let key = self.string(&format!("metadata key {index}"))?;
            let kind = self.u32(&key)?;
            let value = self.value(kind, &key, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.error(&key, "a key once", "the same key twice"));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, kind: u32, what: &str, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>(what)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            4 => Value::U32(self.u32(what)?),
            5 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => Value::Bool(self.bool(what)?),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.values(what, depth + 1)?),
            10 => Value::U64(self.u64(what)?),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            unknown => return Err(self.error(what, "a value type from 0 to 12", unknown)),
        })
    }

    fn bool(&mut self, what: &str) -> Result<bool> {
        match self.array::<1>(what)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(what, "a boolean, 0 or 1", other)),
        }
    }

    fn values(&mut self, what: &str, depth: usize) -> Result<Array> {
        if depth > MAX_DEPTH {
            return Err(self.error(what, format!("arrays nested at most {MAX_DEPTH} deep"), "more"));
        }
        let kind = self.u32(what)?;
        let count = self.count(min_size(kind), what)?;
        Ok(match kind {
            0 => Array::U8(self.take(count, what)?.to_vec()),
            4 => Array::U32(self.numbers(count, what, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, what, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, what, f32::from_le_bytes)?),
            7 => Array::Bool((0..count).map(|_| self.bool(what)).collect::<Result<_>>()?),
            8 => Array::Strings((0..count).map(|_| self.string(what)).collect::<Result<_>>()?),
            _ if count as u64 > MAX_UNUSUAL => {
                return Err(self.error(
                    what,
                    format!("at most {MAX_UNUSUAL} elements of type {kind}"),
                    count,
                ));
            }
            _ => Array::Other((0..count).map(|_| self.value(kind, what, depth)).collect::<Result<_>>()?),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: usize,
        what: &str,
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let bytes = self.take(count * N, what)?;
        Ok(bytes.chunks_exact(N).map(|chunk| read(chunk.try_into().expect("chunks of N bytes"))).collect())
    }
}

/// The fewest bytes that a value of this type takes.
fn min_size(kind: u32) -> usize {
    match kind {
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => 1,
    }
}
