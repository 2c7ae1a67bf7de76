//! Weights stored as bf16, f16 or f32, packed in their own width; and every other form, multiplied in f32.
//!
//! A panel of [`PANEL`](super::packed::PANEL) rows is a run of 64-byte lines: one column of f32, two columns of f16 one
//! after the other, or two of bf16 interleaved by row (the pairs that `vdpbf16ps` takes; a shift and a mask convert
//! them to f32). An odd last column is paired with zeros, and rows beyond the last are zeros.

mod decoded;
mod element;
mod formats;
mod kernel;
mod lanes;
mod pack;
mod plain;
mod run;
mod tile;
mod unpacked;
mod weight;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use decoded::EncodedPanels;
pub(super) use unpacked::UnpackedWeight;
pub(super) use weight::DenseWeight;
