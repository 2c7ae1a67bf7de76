//! GGUF block types: quantize and dequantize rows of blocks, and take blocks apart.
//!
//! [`rows`] has the one match over the types; a type implements `BlockCodec`, in a file of its own or beside those that
//! differ only in the bits of their codes. Single-threaded: the caller splits the rows. Layouts are llama.cpp's, to the byte:
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

mod affine;
mod best;
mod block;
mod codec;
mod formula;
pub(crate) mod integers;
mod iq4;
mod iq4_nl;
mod iq4_xs;
mod k_quants;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_avx2;
#[cfg(target_arch = "aarch64")]
mod lanes_neon;
mod packing;
mod parts;
mod q8_0;
mod rows;
mod symmetric;
#[cfg(test)]
mod tests;
mod weighing;

pub(crate) use formula::formula;
pub(crate) use parts::Parts;
pub use rows::{dequantize, quantize};
