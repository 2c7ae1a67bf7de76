//! The CUDA kernels, executed: kernels/*.cu are compiled with the host's C++ compiler against kernels/emulator/ and launched on
//! this machine by the wrappers of `llmc::cuda`, every kernel and variant against a reference in float64, over ragged and tiny
//! shapes, under several orders of threads.
//!
//! Limits: this shows indexing, layout, pipelining and split-K, not speed, nor races within a turn (kernels/emulator/emulator.h
//! says what is emulated). Without a C++ compiler the tests say so and pass; with LLMC_REQUIRE_CXX set, as in .ci/run, they fail.
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
