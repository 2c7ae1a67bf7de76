//! Schemes and their codecs: pure arithmetic, no I/O.
//!
//! Each codec is a file with three verbs: `fit` (the min-max grid), `round` (values → codes), `dequantize` (codes →
//! values); `pack` lays codes out in bits. Fast paths choose AVX2 at run time and equal their plain twins to the bit.

mod codec;
mod column;
pub mod convert;
mod eight_bits;
pub mod fp4;
pub mod fp8;
pub mod ggml;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod goldens;
pub mod hadamard;
pub mod int;
pub mod linalg;
mod minifloat;
pub mod nf4;
pub mod pack;
pub mod presets;
mod qtensor;
pub mod random;
mod scale;
mod scheme;
pub(crate) mod simd;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod twins;
mod weight;

pub use column::{Cells, Column};
pub use eight_bits::EightBits;
pub use qtensor::{Grid, QTensor};
pub use scheme::{Context, Extent, Fp8, Granularity, Number, ScaleType, Scheme};
pub use weight::{LowRank, Weight};
