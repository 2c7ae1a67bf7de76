//! Recognises checkpoints that are already quantized, and reads their codes.
//!
//! The tensors decide: a module with `weight_packed`, with `qweight`, or with an 8-bit `weight` and its scales is
//! quantized, whatever config.json says; shapes and types must agree with each other, and the configuration settles what
//! they leave open. Read: compressed-tensors (pack-, int-, float-, naive-, mxfp8-quantized, nvfp4- and mxfp4-pack-quantized),
//! GPTQ v1 and v2 with act-order, AWQ GEMM, FP8 by tensor, channel or block, ModelOpt's NVFP4, and gpt-oss' experts in MXFP4.
//! Weights without their zeros ([`bitmask`]) are dense, or codes of one byte.
//! Other weights are matrices; stacked experts that some engines store in one FP8 tensor, and the packed weights of other
//! tools ([`foreign`]), are refused by name.

mod bitmask;
mod bits;
mod config;
mod experts;
mod foreign;
mod layouts;
mod module;
mod read;
mod recognise;
mod words;

pub(crate) use bitmask::read_sparse;
pub(crate) use recognise::{Recognised, read, recognise};
