//! The GGUF container: metadata, tensor infos, their validation.

use indexmap::IndexMap;

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
    /// Any other element type, nested arrays included.
    Other(Vec<Value>),
}

/// Metadata in the order of the file.
pub type Metadata = IndexMap<String, Value>;
