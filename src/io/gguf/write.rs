//! The bytes of a GGUF header, and where each tensor goes: version 3, little-endian, tensors at multiples of 32.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashSet;

use super::ggml_types;
use super::value::{Array, Metadata, Value};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: u64 = 32;

/// The description of a tensor in the header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorInfo<'a> {
    /// Name.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: &'a [usize],
}

/// A tensor whose values are known before the file is written.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

impl Constant {
    /// Makes a vector in F32.
    pub(crate) fn vector(name: &str, values: &[f32]) -> Constant {
        Constant::new(name.to_owned(), vec![values.len()], values)
    }

    /// Makes a tensor in F32. `shape` is row-major and has as many elements as `values`.
    pub(crate) fn new(name: String, shape: Vec<usize>, values: &[f32]) -> Constant {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Constant { name, dtype: DType::F32, shape, bytes }
    }

    fn info(&self) -> TensorInfo<'_> {
        TensorInfo { name: &self.name, dtype: self.dtype, shape: &self.shape }
    }
}

/// The layout of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    /// The first bytes: header and constants.
    pub header: Vec<u8>,
    /// The offset of each tensor in the file.
    pub offsets: Vec<u64>,
    /// Total length in bytes.
    pub len: u64,
}

/// Returns the bytes of a file that has constants only.
///
/// # Errors
/// Two tensors of one name.
pub(crate) fn whole(metadata: &Metadata, constants: &[Constant]) -> Result<Vec<u8>> {
    Ok(lay_out(std::iter::empty(), metadata, constants)?.header)
}

/// Lays out a file. The constants come first, as part of the header's bytes.
///
/// # Errors
/// Two tensors of one name; an element type that ggml does not have.
pub(crate) fn lay_out<'a>(
    tensors: impl Iterator<Item = TensorInfo<'a>>,
    metadata: &Metadata,
    constants: &[Constant],
) -> Result<Layout> {
    let mut names = HashSet::new();
    let mut end = 0;
    let mut infos = Vec::new();
    for constant in constants {
        put_info(&mut infos, constant.info(), &mut end, &mut names)?;
    }
    let mut offsets = Vec::new();
    for tensor in tensors {
        offsets.push(put_info(&mut infos, tensor, &mut end, &mut names)?);
    }
    let mut header = prelude(metadata, names.len());
    header.extend(infos);
    align(&mut header);
    let start = header.len() as u64;
    for constant in constants {
        header.extend(&constant.bytes);
        align(&mut header);
    }
    offsets.iter_mut().for_each(|offset| *offset += start);
    Ok(Layout { header, offsets, len: start + end })
}

/// Magic, version, counts, metadata.
fn prelude(metadata: &Metadata, tensors: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    put_u64(&mut out, tensors);
    put_u64(&mut out, metadata.len());
    for (key, value) in metadata {
        put_string(&mut out, key);
        out.extend(value_type(value).to_le_bytes());
        put_value(&mut out, value);
    }
    out
}

/// Writes a tensor's info and returns its offset in the data, whose `end` it moves.
fn put_info(
    out: &mut Vec<u8>,
    tensor: TensorInfo,
    end: &mut u64,
    names: &mut HashSet<String>,
) -> Result<u64> {
    let TensorInfo { name, dtype, shape } = tensor;
    let Some(number) = ggml_types::number(dtype) else {
        return Err(Error::unsupported(
            format!("{name}: GGUF has no element type {}", dtype.name()),
            "leave the tensor out of the checkpoint, or use another format",
        ));
    };
    if !names.insert(name.to_owned()) {
        return Err(Error::unsupported(
            format!("two tensors of the output would be named {name}"),
            "the checkpoint has the same tensor under two names: remove one",
        ));
    }
    let bytes = dtype.byte_len(shape).expect("a stored tensor has a size");
    let offset = *end;
    put_string(out, name);
    let dims: &[usize] = if shape.is_empty() { &[1] } else { shape };
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().rev().for_each(|&dim| put_u64(out, dim));
    out.extend(number.to_le_bytes());
    out.extend(offset.to_le_bytes());
    *end = (offset + bytes as u64).next_multiple_of(ALIGNMENT);
    Ok(offset)
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn put_u64(out: &mut Vec<u8>, value: usize) {
    out.extend((value as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len());
    out.extend(text.as_bytes());
}

fn value_type(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let element_type = match array {
        Array::U8(_) => 0,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::Strings(_) => 8,
        Array::Other(values) => values.first().map_or(4, value_type),
    };
    out.extend(u32::to_le_bytes(element_type));
    put_u64(out, array.len());
    match array {
        Array::U8(v) => out.extend(v),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|x| u8::from(*x))),
        Array::Strings(v) => v.iter().for_each(|text| put_string(out, text)),
        Array::Other(v) => v.iter().for_each(|value| put_value(out, value)),
    }
}

#[cfg(test)]
mod tests;
