//! Bytes of any float dtype ↔ f32.

use crate::tensor::DType;

/// Decodes little-endian elements (or blocks) into f32. F64 is rounded to nearest.
///
/// # Panics
/// Where the lengths disagree, or where the dtype is not a float ([`DType::is_float`]).
pub fn to_f32(_dtype: DType, _bytes: &[u8], _out: &mut [f32]) {
    todo!()
}

/// Encodes f32 as little-endian elements of a float dtype (not blocks), rounding to nearest even.
pub fn from_f32(_dtype: DType, _values: &[f32], _out: &mut Vec<u8>) {
    todo!()
}
