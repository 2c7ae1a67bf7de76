//! FP8: scale = absmax / largest value, code = the 8-bit float nearest to w/scale (ties to even).
//!
//! Formats: OCP 8-bit Floating Point 1.0; E4M3 is torch's `float8_e4m3fn`, E5M2 its `float8_e5m2`. Encoding saturates:
//! where torch's cast of 500.0 to `float8_e4m3fn` gives NaN, ours gives 448. Infinities stay where the format has them
//! (E5M2), and saturate in E4M3; NaN stays NaN.

use std::sync::LazyLock;

use ndarray::ArrayView2;

use super::codec::{self, Codec};
use super::minifloat::{E4M3, E5M2, Minifloat};
use super::simd::{self, Kernel};
use super::{Column, Context, Fp8, Grid, Number, QTensor, Scheme};

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
}

/// The code nearest to a value, see the module's docs for what does not fit.
#[inline(always)]
pub fn encode(format: Fp8, value: f32) -> u8 {
    let minifloat = format.minifloat();
    let magnitude = value.abs();
    let finite = minifloat.encode(simd::min(magnitude, minifloat.max));
    let infinite = if format == Fp8::E5M2 && magnitude == f32::INFINITY { E5M2_INFINITY } else { finite };
    let code = if value.is_nan() { NAN } else { infinite };
    code | (value.to_bits() >> 24) as u8 & 0x80
}

/// The value of a code.
pub fn decode(format: Fp8, code: u8) -> f32 {
    table(format)[usize::from(code)]
}

/// Encodes values one after the other.
///
/// # Panics
/// Where the lengths disagree.
pub fn encode_slice(format: Fp8, values: &[f32], codes: &mut [u8]) {
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

/// The values of all codes.
pub fn table(format: Fp8) -> &'static [f32; 256] {
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

struct Codes {
    format: Fp8,
    table: &'static [f32; 256],
}

impl Codec for Codes {
    #[inline(always)]
    fn encode(&self, scaled: f32, _zero: f32) -> u8 {
        encode(self.format, scaled)
    }

    #[inline(always)]
    fn decode(&self, code: u8, _zero: f32) -> f32 {
        self.table[usize::from(code)]
    }
}

impl Codes {
    /// # Panics
    /// Where the scheme is not one of FP8.
    fn new(scheme: &Scheme) -> Codes {
        let Number::Fp8(format) = scheme.number else { panic!("an FP8 codec given {scheme:?}") };
        Codes { format, table: table(format) }
    }
}

/// The min-max grid.
pub fn fit(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
    let largest = Codes::new(scheme).format.minifloat().max;
    let absmax = codec::absmax(scheme, w, context);
    let scales = absmax.into_iter().map(|absmax| scheme.scale.covering(absmax, largest)).collect();
    Grid { scales, ..Grid::default() }
}

/// Rounds to the nearest codes.
pub fn round(scheme: &Scheme, w: ArrayView2<f32>, grid: &Grid) -> Vec<u8> {
    codec::round(Codes::new(scheme), scheme, w, &grid.scales, &[])
}

/// Rounds a column of several rows.
pub fn round_column(scheme: &Scheme, column: Column) {
    column.round(Codes::new(scheme));
}

/// Squared error per grid entry.
pub fn squared_errors(
    scheme: &Scheme,
    w: ArrayView2<f32>,
    grid: &Grid,
    importance: Option<&[f32]>,
) -> Vec<f32> {
    codec::squared_errors(Codes::new(scheme), scheme, w, &grid.scales, &[], importance)
}

/// Codes → values.
pub fn dequantize(q: &QTensor, out: &mut [f32]) {
    codec::dequantize(Codes::new(&q.scheme), q, &q.grid.scales, &[], out);
}
