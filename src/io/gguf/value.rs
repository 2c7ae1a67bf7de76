//! GGUF metadata values: scalars, strings and arrays, and lenient accessors over them.

use std::path::Path;

use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::names::shown;

/// A metadata value. Arrays hold values of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// Never empty of type: the element type travels with the variant.
    Array(Array),
}

/// A metadata array, by element type, as compact as the types that tokenizers use.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    Strings(Vec<String>),
    F32(Vec<f32>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
    /// Any other element type, nested arrays included. Empty where the element type is lost: such arrays read as empty.
    Other(Vec<Value>),
}

/// Metadata in the order of the file.
pub(crate) type Metadata = IndexMap<String, Value>;

/// Reads a value of the type that its key has; `None` where the key is not there, or names an empty list.
///
/// # Errors
/// [`Error::Malformed`] for a value of another type: read as absent, it would leave a default in its place.
pub(crate) fn typed<'a, T>(
    file: &Path,
    metadata: &'a Metadata,
    key: &str,
    expected: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>> {
    let is_empty = |value: &Value| matches!(value, Value::Array(list) if list.len() == 0);
    let Some(value) = metadata.get(key).filter(|value| !is_empty(value)) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| {
        let found = value.to_text().unwrap_or_else(|| "a list of another type".to_owned());
        let hint = "the metadata are damaged: convert the model again with a current llama.cpp";
        Error::malformed_tensor(file, key, expected, shown(&found), hint)
    })
}

impl Value {
    /// A non-negative integer of any width.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A number of any type. An f32 gives the shortest decimal that reads back as it, so that 1e-5 stays 1e-5.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => v.to_string().parse().ok(),
            Value::F64(v) => Some(v),
            Value::I64(v) => Some(v as f64),
            _ => self.as_u64().map(|v| v as f64),
        }
    }

    /// A boolean.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// An array of strings.
    pub(crate) fn as_strings(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::Strings(v)) => Some(v),
            _ => None,
        }
    }

    /// An array of 32-bit integers (the types of tokens).
    pub(crate) fn as_i32s(&self) -> Option<&[i32]> {
        match self {
            Value::Array(Array::I32(v)) => Some(v),
            _ => None,
        }
    }

    /// An array of f32 (the scores of tokens).
    pub(crate) fn as_f32s(&self) -> Option<&[f32]> {
        match self {
            Value::Array(Array::F32(v)) => Some(v),
            _ => None,
        }
    }

    /// An array of bytes (a normalizer's compiled character map).
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Array(Array::U8(v)) => Some(v),
            _ => None,
        }
    }

    /// The first element of an array, or the value itself: some settings are given per layer.
    pub(crate) fn first(&self) -> Option<Value> {
        match self {
            Value::Array(Array::U32(v)) => v.first().copied().map(Value::U32),
            Value::Array(Array::I32(v)) => v.first().copied().map(Value::I32),
            Value::Array(Array::F32(v)) => v.first().copied().map(Value::F32),
            Value::Array(Array::Bool(v)) => v.first().copied().map(Value::Bool),
            Value::Array(_) => None,
            scalar => Some(scalar.clone()),
        }
    }

    /// The value as text, for summaries: scalars only, arrays have none.
    pub(crate) fn to_text(&self) -> Option<String> {
        match self {
            Value::Array(_) => None,
            Value::String(v) => Some(v.clone()),
            Value::Bool(v) => Some(v.to_string()),
            Value::F32(v) => Some(v.to_string()),
            Value::F64(v) => Some(v.to_string()),
            Value::I8(v) => Some(v.to_string()),
            Value::I16(v) => Some(v.to_string()),
            Value::I32(v) => Some(v.to_string()),
            Value::I64(v) => Some(v.to_string()),
            unsigned => unsigned.as_u64().map(|v| v.to_string()),
        }
    }
}

impl Array {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Array::Strings(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::U8(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Other(v) => v.len(),
        }
    }
}
