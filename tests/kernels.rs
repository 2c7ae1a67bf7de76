//! The CUDA kernels, executed on this machine: the host's C++ compiler compiles kernels/*.cu against kernels/emulator/,
//! and the wrappers of `llmc::cuda` launch them. Every kernel and variant is compared with a reference in float64, over
//! ragged and tiny shapes, under several orders of threads.
//!
//! Limits: this tests indexing, layout, pipelining and split-K. It does not test speed, nor races within a turn
//! (kernels/emulator/emulator.h describes what is emulated). Without a C++ compiler the tests print a message and pass;
//! with LLMC_REQUIRE_CXX set, as in .ci/run, they fail.
#![allow(clippy::unwrap_used)]

#[path = "kernels/checks.rs"]
mod checks;
mod common;
#[path = "kernels/compile.rs"]
mod compile;
#[path = "kernels/dequantize.rs"]
mod dequantize;
#[path = "kernels/emulator.rs"]
mod emulator;
#[path = "kernels/measured.rs"]
mod measured;
#[path = "kernels/misuse.rs"]
mod misuse;
#[path = "kernels/products.rs"]
mod products;
#[path = "kernels/tensor.rs"]
mod tensor;
#[path = "kernels/w8a8.rs"]
mod w8a8;
