//! FP8: scale = absmax / largest value, code = the 8-bit float nearest to w/scale (ties to even).
//!
//! Formats: OCP 8-bit Floating Point 1.0; E4M3 is torch's `float8_e4m3fn`, E5M2 its `float8_e5m2`. Encoding saturates:
//! torch's cast of 500.0 to `float8_e4m3fn` gives NaN, ours gives 448. Infinities stay infinities in E5M2, which has them,
//! and saturate in E4M3; NaN stays NaN.

use std::sync::LazyLock;

use super::Fp8;
use super::codec::Codec;
use super::minifloat::{E4M3, E5M2, Minifloat};
use super::simd::{self, Kernel};

const NAN: u8 = 0x7F;
const E5M2_INFINITY: u8 = 0x7C;

impl Fp8 {
    #[inline(always)]
    const fn minifloat(self) -> Minifloat {
        match self {
            Fp8::E4M3 => E4M3,
            Fp8::E5M2 => E5M2,
        }
    }

    /// Returns the largest finite value.
    pub(super) const fn largest(self) -> f32 {
        self.minifloat().max
    }
}

/// Returns the code nearest to a value; the module's docs tell about values beyond the largest.
#[inline(always)]
pub(crate) fn encode(format: Fp8, value: f32) -> u8 {
    let minifloat = format.minifloat();
    let magnitude = value.abs();
    let finite = minifloat.encode(simd::min(magnitude, minifloat.max));
    let infinite = if format == Fp8::E5M2 && magnitude == f32::INFINITY { E5M2_INFINITY } else { finite };
    let code = if value.is_nan() { NAN } else { infinite };
    code | (value.to_bits() >> 24) as u8 & 0x80
}

/// Encodes values one after the other.
///
/// # Panics
/// If the lengths disagree.
pub(crate) fn encode_slice(format: Fp8, values: &[f32], codes: &mut [u8]) {
    assert_eq!(values.len(), codes.len(), "encode_slice: wrong output length");
    simd::dispatch(EncodeSlice { format, values, codes });
}

struct EncodeSlice<'a> {
    format: Fp8,
    values: &'a [f32],
    codes: &'a mut [u8],
}

impl Kernel for EncodeSlice<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (&value, code) in self.values.iter().zip(self.codes) {
            *code = encode(self.format, value);
        }
    }
}

/// Returns the values of all codes.
pub(crate) fn table(format: Fp8) -> &'static [f32; 256] {
    static TABLES: LazyLock<[[f32; 256]; 2]> = LazyLock::new(|| {
        [Fp8::E4M3, Fp8::E5M2].map(|format| std::array::from_fn(|code| value(format, code as u8)))
    });
    &TABLES[format as usize]
}

fn value(format: Fp8, code: u8) -> f32 {
    let magnitude = match (format, code & 0x7F) {
        (Fp8::E4M3, NAN) => f32::NAN,
        (Fp8::E5M2, E5M2_INFINITY) => f32::INFINITY,
        (Fp8::E5M2, beyond) if beyond > E5M2_INFINITY => f32::NAN,
        (_, finite) => format.minifloat().decode(finite),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// FP8 codes.
pub(crate) struct Fp8Codec {
    format: Fp8,
    table: &'static [f32; 256],
}

impl Fp8Codec {
    /// Creates the codec of a format.
    pub(crate) fn new(format: Fp8) -> Fp8Codec {
        Fp8Codec { format, table: table(format) }
    }
}

impl Codec for Fp8Codec {
    #[inline(always)]
    fn encode(&self, scaled: f32, _zero: f32) -> u8 {
        encode(self.format, scaled)
    }

    #[inline(always)]
    fn decode(&self, code: u8, _zero: f32) -> f32 {
        self.table[usize::from(code)]
    }
}
