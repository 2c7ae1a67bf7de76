//! Schemes and their codecs: pure arithmetic, no I/O.
//!
//! `rounding` has the verbs of a scheme: `fit` (the min-max grid), `round` (values → codes), `dequantize` (codes → values). Each
//! scalar codec is a file, and so is each kind of GGUF block; `pack` lays codes out in bits. Fast paths choose AVX2 at run
//! time and equal their plain twins to the bit.

mod codec;
mod column;
pub mod convert;
mod eight_bits;
mod extremes;
#[cfg(target_arch = "x86_64")]
mod f16c;
mod fp4;
mod fp8;
pub mod ggml;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod goldens;
mod grid;
pub(crate) mod hadamard;
mod int;
pub(crate) mod linalg;
mod minifloat;
mod nf4;
pub mod pack;
pub mod presets;
mod qtensor;
pub mod random;
mod rounding;
mod scale;
mod scheme;
pub(crate) mod simd;
mod spans;
pub(crate) mod sparsity;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod twins;
mod weight;

pub(crate) use column::Column;
pub use eight_bits::EightBits;
pub(crate) use grid::Cells;
pub use grid::Grid;
pub use qtensor::{Codes, QTensor, ScalarCodes};
pub use scheme::{Context, Extent, Fp8, Granularity, Number, ScaleType, Scheme};
pub use sparsity::{Pattern, Sparsity};
pub use weight::{LowRank, Weight};
