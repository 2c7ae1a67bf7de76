//! The safetensors header: parsing and validation. Reads the header only; never looks at a tensor's bytes.
//!
//! A file is eight bytes of little-endian header length, the header in JSON, and the tensors' bytes, which must follow
//! each other without holes or overlaps up to the end of the file. The rules are those of the reference reader
//! (<https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs>), and one more: a tensor's name may
//! occur only once. What is parsed takes memory in proportion to the header, which the file must back.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Formatter};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::RawTensor;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Bytes of the length that opens the file.
const PREFIX: usize = 8;
/// The longest header that readers accept.
const MAX_HEADER: usize = 100_000_000;
/// Types that the format has and llmc has not: sub-byte, AMD's FP8 variants, complex.
const UNSUPPORTED: [&str; 6] = ["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"];

/// The hint for a file of a wrong length.
const TRUNCATED: &str = "the file is truncated or not a safetensors file: copy or download it again";
/// The hint for a header that contradicts itself.
const CORRUPT: &str = "the header is corrupt: write the file again with the tool that made it";

/// A parsed and validated header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The strings under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// In the order of their bytes; ranges are of the whole file.
    pub tensors: Vec<RawTensor>,
}

/// Parses the header of a whole file's bytes. `file` is its path, for errors; `index` goes into [`RawTensor::file`].
pub fn parse(file: &Path, index: usize, bytes: &[u8]) -> Result<Header> {
    let data_start = header_end(file, bytes)?;
    let entries = parse_json(file, &bytes[PREFIX..data_start])?;
    let reader = Reader { file, index, data_start, data_len: bytes.len() - data_start };
    let tensors = entries.tensors.into_iter().map(|(name, info)| reader.tensor(name, info));
    let mut tensors = tensors.collect::<Result<Vec<_>>>()?;
    check_unique(file, &tensors)?;
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    reader.check_cover(&tensors)?;
    Ok(Header { metadata: entries.metadata, tensors })
}

/// The offset of the data, at the end of the header.
fn header_end(file: &Path, bytes: &[u8]) -> Result<usize> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::malformed(file, "at least 8 bytes of header length", found, TRUNCATED));
    };
    let len = u64::from_le_bytes(*prefix);
    let room = bytes.len() - PREFIX;
    let expected = format!("a header of at most {} bytes", room.min(MAX_HEADER));
    match usize::try_from(len) {
        Ok(len) if len <= room.min(MAX_HEADER) => Ok(PREFIX + len),
        _ => Err(Error::malformed(file, expected, format!("a header length of {len}"), TRUNCATED)),
    }
}

/// The header's JSON, names checked for nothing yet.
fn parse_json(file: &Path, header: &[u8]) -> Result<Entries> {
    let text = std::str::from_utf8(header).map_err(|e| {
        let found = format!("an invalid byte at offset {}", PREFIX + e.valid_up_to());
        Error::malformed(file, "a header in UTF-8", found, TRUNCATED)
    })?;
    let mut entries = Entries::default();
    let mut json = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_map(&mut json, &mut entries).and_then(|()| json.end()).map_err(|e| {
        Error::Malformed {
            file: file.to_owned(),
            tensor: entries.current.take(),
            expected: "a JSON header of tensors with dtype, shape and data_offsets".into(),
            found: e.to_string(),
            hint: CORRUPT.into(),
        }
    })?;
    Ok(entries)
}

/// One tensor of the header, as it is written. Offsets count from the start of the data.
#[derive(Debug, Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Every entry of the header in its order, duplicates included.
#[derive(Debug, Default)]
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Info)>,
    /// The entry being read, to name it where it does not parse.
    current: Option<String>,
}

impl<'de> Visitor<'de> for &mut Entries {
    type Value = ();

    fn expecting(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.current = Some(name.clone());
            if name == "__metadata__" {
                self.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
            } else {
                self.tensors.push((name, map.next_value()?));
            }
            self.current = None;
        }
        Ok(())
    }
}

/// The properties of a file that an entry is validated with.
struct Reader<'a> {
    file: &'a Path,
    index: usize,
    data_start: usize,
    data_len: usize,
}

impl Reader<'_> {
    /// Checks one entry by itself: its type, and that its bytes lie in the file and are as many as its shape says.
    fn tensor(&self, name: String, info: Info) -> Result<RawTensor> {
        let dtype = self.dtype(&name, &info.dtype)?;
        let range = self.range(&name, info.data_offsets)?;
        let Some(len) = dtype.byte_len(&info.shape) else {
            let found = format!("shape {:?} of {}", info.shape, info.dtype);
            return Err(self.malformed(&name, "a size that fits in memory's address space", found, CORRUPT));
        };
        if len != range.len() {
            let expected = format!("{len} bytes for {} {:?}", info.dtype, info.shape);
            return Err(self.malformed(&name, expected, format!("{} bytes", range.len()), CORRUPT));
        }
        Ok(RawTensor { name, dtype, shape: info.shape, file: self.index, range })
    }

    fn dtype(&self, name: &str, found: &str) -> Result<DType> {
        if UNSUPPORTED.contains(&found) {
            let what = format!("{}: {name}: llmc does not read {found}", self.file.display());
            return Err(Error::unsupported(
                what,
                "convert this tensor to a type of whole bytes (F8_E4M3, BF16, U8)",
            ));
        }
        DType::from_safetensors(found).ok_or_else(|| {
            let hint = "the file is corrupt, or newer than this version of llmc";
            self.malformed(name, "a dtype of safetensors (F32, BF16, …)", format!("{found:?}"), hint)
        })
    }

    /// Offsets in the data → range of the file.
    fn range(&self, name: &str, (begin, end): (usize, usize)) -> Result<Range<usize>> {
        if begin > end || end > self.data_len {
            let expected = format!("offsets within the {} bytes of data", self.data_len);
            return Err(self.malformed(name, expected, format!("{begin}..{end}"), TRUNCATED));
        }
        Ok(self.data_start + begin..self.data_start + end)
    }

    /// Checks that tensors, sorted by offset, follow each other from the header to the end of the file.
    fn check_cover(&self, tensors: &[RawTensor]) -> Result<()> {
        let mut end = self.data_start;
        for tensor in tensors {
            let start = tensor.range.start;
            if start != end {
                let kind = if start < end { "an overlap with the tensor before it" } else { "a hole" };
                let found = format!("offset {}: {kind}", start - self.data_start);
                return Err(self.malformed(
                    &tensor.name,
                    format!("offset {}", end - self.data_start),
                    found,
                    CORRUPT,
                ));
            }
            end = tensor.range.end;
        }
        let rest = self.data_start + self.data_len - end;
        if rest != 0 {
            let found = format!("{rest} bytes that belong to no tensor");
            return Err(Error::malformed(self.file, "the file to end with its last tensor", found, CORRUPT));
        }
        Ok(())
    }

    fn malformed(
        &self,
        name: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        hint: &str,
    ) -> Error {
        Error::malformed_tensor(self.file, name, expected, found, hint)
    }
}

fn check_unique(file: &Path, tensors: &[RawTensor]) -> Result<()> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        Some(twice) => Err(Error::malformed_tensor(file, &twice.name, "each name once", "it twice", CORRUPT)),
        None => Ok(()),
    }
}
