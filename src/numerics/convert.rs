//! Bytes of any float dtype ↔ f32.
//!
//! Bytes come from memory maps and need no alignment. Rounding is to nearest, ties to even. FP8 saturates, see
//! [`fp8`]; F16 overflows to infinity, as in IEEE 754.

use half::f16;
use half::slice::HalfFloatSliceExt;

#[cfg(target_arch = "x86_64")]
use super::f16c;
use super::simd::{self, Kernel};
use super::{Fp8, fp8, ggml};
use crate::tensor::DType;

/// Halves converted at a time by `half`, in a buffer with the alignment that its NEON loops need.
const BUFFER: usize = 1024;

/// Decodes little-endian elements (or blocks) into f32. F64 is rounded to nearest.
///
/// # Panics
/// If the lengths disagree, or the dtype is not a float ([`DType::is_float`]).
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let expected = dtype.byte_len(&[out.len()]);
    assert_eq!(Some(bytes.len()), expected, "to_f32: {} values of {}", out.len(), dtype.name());
    match dtype {
        DType::F64 => decode(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::F32 => decode(bytes, out, f32::from_le_bytes),
        DType::F16 => f16_to_f32(bytes, out),
        DType::BF16 => simd::dispatch(Bf16ToF32 { bytes, out }),
        DType::F8E4M3 => decode_table(fp8::table(Fp8::E4M3), bytes, out),
        DType::F8E5M2 => decode_table(fp8::table(Fp8::E5M2), bytes, out),
        DType::Block(block) => ggml::dequantize(block, bytes, out),
        other => panic!("to_f32: {} is not a float", other.name()),
    }
}

/// Appends f32 as little-endian elements of a float dtype (not blocks), rounding to nearest even.
///
/// # Panics
/// If the dtype is not a scalar float.
pub fn from_f32(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() * dtype.block_bytes(), 0);
    let bytes = &mut out[start..];
    match dtype {
        DType::F64 => encode(values, bytes, |v| f64::from(v).to_le_bytes()),
        DType::F32 => encode(values, bytes, f32::to_le_bytes),
        DType::F16 => f32_to_f16(values, bytes),
        DType::BF16 => simd::dispatch(F32ToBf16 { values, bytes }),
        DType::F8E4M3 => fp8::encode_slice(Fp8::E4M3, values, bytes),
        DType::F8E5M2 => fp8::encode_slice(Fp8::E5M2, values, bytes),
        other => panic!("from_f32: {} is not a scalar float", other.name()),
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], element: impl Fn(f32) -> [u8; N]) {
    for (&value, bytes) in values.iter().zip(bytes.as_chunks_mut::<N>().0) {
        *bytes = element(value);
    }
}

fn decode_table(table: &[f32; 256], bytes: &[u8], out: &mut [f32]) {
    for (&byte, out) in bytes.iter().zip(out) {
        *out = table[usize::from(byte)];
    }
}

struct Bf16ToF32<'a> {
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Bf16ToF32<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (bytes, out) in self.bytes.as_chunks::<2>().0.iter().zip(self.out) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }
}

struct F32ToBf16<'a> {
    values: &'a [f32],
    bytes: &'a mut [u8],
}

impl Kernel for F32ToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (&value, bytes) in self.values.iter().zip(self.bytes.as_chunks_mut::<2>().0) {
            *bytes = bf16_bits(value).to_le_bytes();
        }
    }
}

/// Returns the upper half of the bits, rounded. NaN keeps its payload's upper half and is made quiet, so that it stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    (kept >> 16) as u16
}

fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if f16c::decode(bytes, out) {
        return;
    }
    let mut halves = [f16::ZERO; BUFFER];
    for (bytes, out) in bytes.chunks(2 * BUFFER).zip(out.chunks_mut(BUFFER)) {
        let halves = &mut halves[..out.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(out);
    }
}

fn f32_to_f16(values: &[f32], bytes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if f16c::encode(values, bytes) {
        return;
    }
    let mut halves = [f16::ZERO; BUFFER];
    for (values, bytes) in values.chunks(BUFFER).zip(bytes.chunks_mut(2 * BUFFER)) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut::<2>().0) {
            *bytes = half.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::tensor::BlockType;

    const FLOATS: [DType; 6] =
        [DType::F64, DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];

    /// Every 16-bit pattern, at an odd address, over a length with a remainder.
    #[test]
    fn all_halves_come_back_from_unaligned_bytes() {
        for dtype in [DType::F16, DType::BF16] {
            let mut bytes = vec![0];
            bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
            let mut values = vec![0.0; 1 << 16];
            to_f32(dtype, &bytes[1..], &mut values);
            let mut back = vec![0];
            from_f32(dtype, &values, &mut back);
            for (pattern, value) in values.iter().enumerate() {
                let found = u16::from_le_bytes([back[1 + 2 * pattern], back[2 + 2 * pattern]]);
                assert!(usize::from(found) == pattern || value.is_nan(), "{}: {pattern:#x}", dtype.name());
            }
        }
    }

    #[test]
    fn bf16_rounding_equals_that_of_half() {
        let patterns = (0..1u64 << 32).step_by(65_521).map(|bits| f32::from_bits(bits as u32));
        let ties =
            [0x3F80_8000, 0x3F81_8000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0xFFFF_FFFF, 0x0000_8001];
        for value in patterns.chain(ties.map(f32::from_bits)) {
            assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits(), "{value}");
        }
    }

    /// Every upper half of the bits, with lower halves at, beside and between ties; no multiple of eight values.
    #[test]
    fn f16_conversions_equal_those_of_half() {
        let lower = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0xEFFF, 0xF000, 0xFFFF];
        let bits = (0..=0xFFFF_u32).flat_map(|upper| lower.map(|lower| upper << 16 | lower));
        let values: Vec<f32> = bits.skip(3).map(f32::from_bits).collect();
        assert!(!values.len().is_multiple_of(8));
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; values.len()]);
        from_f32(DType::F16, &values, &mut bytes);
        to_f32(DType::F16, &bytes, &mut back);
        for ((value, bytes), back) in values.iter().zip(bytes.as_chunks::<2>().0).zip(back) {
            let half = f16::from_f32_const(*value); // never by F16C
            assert_eq!(*bytes, half.to_le_bytes(), "{value}");
            assert_eq!(back.to_bits(), half.to_f32_const().to_bits(), "{value}");
        }
    }

    #[test]
    fn fp8_saturates_and_keeps_nan() {
        let values = [500.0, -1e9, f32::INFINITY, f32::NAN];
        let mut bytes = Vec::new();
        from_f32(DType::F8E4M3, &values, &mut bytes);
        from_f32(DType::F8E5M2, &values, &mut bytes);
        assert_eq!(bytes, [0x7E, 0xFE, 0x7E, 0x7F, 0x60, 0xFB, 0x7C, 0x7F]);
    }

    #[test]
    fn any_length_is_appended_and_read_back() {
        for dtype in FLOATS {
            for len in [0, 1, 7, 16, 33, 1023, 1024, 1025] {
                let values: Vec<f32> = (0..len).map(|i| (i % 15) as f32 - 7.0).collect();
                let mut bytes = vec![0xAB];
                from_f32(dtype, &values, &mut bytes);
                let mut back = vec![f32::NAN; len];
                to_f32(dtype, &bytes[1..], &mut back);
                assert_eq!((bytes[0], back), (0xAB, values), "{} × {len}", dtype.name());
            }
        }
    }

    #[test]
    #[should_panic(expected = "not a scalar float")]
    fn integers_are_refused() {
        from_f32(DType::I32, &[1.0], &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "to_f32: 33 values of q8_0")]
    fn a_broken_block_is_refused() {
        to_f32(DType::Block(BlockType::Q8_0), &[0; 34], &mut [0.0; 33]);
    }
}
