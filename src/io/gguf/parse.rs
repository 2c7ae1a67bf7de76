//! The GGUF container, versions 2 and 3: header, metadata and tensor infos of untrusted bytes, validated.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Limits: little-endian files; the tensor
//! types of [`super::ggml_types`].

use std::collections::HashSet;
use std::path::Path;

use super::ggml_types;
use super::reader::{DOWNLOAD_AGAIN, Reader};
use super::value::{Metadata, Value};
use crate::error::{Error, Result};
use crate::io::source::RawTensor;
use crate::tensor::DType;

/// ggml tensors have at most four dimensions.
const MAX_DIMS: u32 = 4;
/// The default of `general.alignment`.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A parsed file: every tensor lies within it, aligned, and overlaps no other.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// Key → value, in the order of the file.
    pub metadata: Metadata,
    /// In the order of the file; `file` is 0, `range` is absolute.
    pub tensors: Vec<RawTensor>,
    /// Tensors start at multiples of this.
    pub alignment: u64,
}

/// A tensor info as the file has it: where it says the tensor is.
struct Info {
    name: String,
    /// Row-major.
    shape: Vec<usize>,
    dtype: DType,
    /// From the start of the data section.
    offset: u64,
}

/// Parses and validates the header of a GGUF file; `bytes` is the whole file.
///
/// # Errors
/// [`Error::Malformed`] naming the key or tensor, whatever the bytes; [`Error::Unsupported`] for big-endian files,
/// version 1 and tensor types that llmc does not read.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Gguf> {
    let mut reader = Reader::new(file, bytes);
    let version = version(&mut reader)?;
    // A tensor info is at least 8 + 4 + 4 + 8 bytes, a key and its value at least 8 + 4 + 1.
    let tensor_count = reader.count(24, "tensor count")?;
    let key_count = reader.count(13, "metadata count")?;
    let metadata = reader.metadata(key_count)?;
    let alignment = alignment(&reader, &metadata)?;
    let infos = (0..tensor_count).map(|index| info(&mut reader, index)).collect::<Result<Vec<_>>>()?;
    let data = (reader.position() as u64).next_multiple_of(alignment);
    let tensors = infos.into_iter().map(|info| locate(file, info, data, alignment, bytes.len()));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    check_distinct(file, &tensors)?;
    Ok(Gguf { version, metadata, tensors, alignment })
}

fn version(reader: &mut Reader) -> Result<u32> {
    let magic = reader.u32("magic")?;
    if magic.to_le_bytes() != *b"GGUF" {
        let found = format!("the bytes {:02x?}", magic.to_le_bytes());
        let hint = "this is not a GGUF file; safetensors files must end in .safetensors";
        return Err(Error::malformed(reader.file, "the magic number \"GGUF\"", found, hint));
    }
    match reader.u32("version")? {
        version @ (2 | 3) => Ok(version),
        big if big.swap_bytes() <= 0xffff && big > 0xffff => Err(Error::unsupported(
            format!("{}: a big-endian GGUF file", reader.file.display()),
            "convert it on a little-endian machine, or with gguf_convert_endian.py of llama.cpp",
        )),
        other => Err(Error::unsupported(
            format!("{}: GGUF version {other}", reader.file.display()),
            "llmc reads versions 2 and 3: convert the model again with a current llama.cpp",
        )),
    }
}

fn alignment(reader: &Reader, metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value {
        Value::U32(v) if v.is_power_of_two() => Ok(u64::from(*v)),
        other => {
            let found = format!("{other:?}");
            Err(reader.error("general.alignment", "a power of two of type u32", found))
        }
    }
}

fn info(reader: &mut Reader, index: usize) -> Result<Info> {
    let name = reader.string(&format!("name of tensor {index}"))?;
    let dims = reader.u32(&name)?;
    if dims > MAX_DIMS {
        return Err(reader.error(&name, format!("at most {MAX_DIMS} dimensions"), dims));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let dim = reader.u64(&name)?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => return Err(reader.error(&name, "dimensions that are neither 0 nor beyond memory", dim)),
        }
    }
    shape.reverse();
    let number = reader.u32(&name)?;
    let dtype = ggml_types::dtype(number).map_err(|kind| {
        let what = format!("{}: {name}: llmc does not read tensors of {kind}", reader.file.display());
        let hint = format!("it reads {}: quantize the model to one of these again", ggml_types::readable());
        Error::unsupported(what, hint)
    })?;
    Ok(Info { name, shape, dtype, offset: reader.u64("tensor offset")? })
}

/// Turns an info into a tensor whose range lies within the file.
fn locate(file: &Path, info: Info, data: u64, alignment: u64, file_len: usize) -> Result<RawTensor> {
    let Info { name, shape, dtype, offset } = info;
    let error = |expected: String, found: String| {
        Error::malformed_tensor(file, &name, expected, found, DOWNLOAD_AGAIN)
    };
    let Some(len) = dtype.byte_len(&shape) else {
        let per_block = dtype.block_elements();
        let expected = format!("rows of whole blocks of {per_block} elements and a size that fits in memory");
        return Err(error(expected, format!("{} of shape {shape:?}", ggml_types::name(dtype))));
    };
    if offset % alignment != 0 {
        return Err(error(format!("an offset that is a multiple of {alignment}"), offset.to_string()));
    }
    let start = data.checked_add(offset);
    let end = start.and_then(|start| start.checked_add(len as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len as u64 => {
            Ok(RawTensor { name, dtype, shape, file: 0, range: start as usize..end as usize })
        }
        _ => Err(error(
            format!("{len} bytes at offset {offset} of the data"),
            format!("a file of {file_len} bytes whose data begin at {data}"),
        )),
    }
}

/// Refuses two tensors of one name, and tensors that share bytes.
fn check_distinct(file: &Path, tensors: &[RawTensor]) -> Result<()> {
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        let found = "two tensors of this name";
        return Err(Error::malformed_tensor(file, &twice.name, "one tensor", found, DOWNLOAD_AGAIN));
    }
    let mut by_start: Vec<&RawTensor> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    match by_start.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        None => Ok(()),
        Some(pair) => {
            let found =
                format!("bytes {:?}, which overlap {} at {:?}", pair[1].range, pair[0].name, pair[0].range);
            let expected = "bytes of its own";
            Err(Error::malformed_tensor(file, &pair[1].name, expected, found, DOWNLOAD_AGAIN))
        }
    }
}
