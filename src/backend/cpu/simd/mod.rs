//! Vectors of 16 floats, written once and compiled for AVX-512, for AVX2 with FMA, and portably (LLVM then uses the
//! instructions of the target's baseline: SSE2, NEON).
//!
//! A value of a [`Simd`] type proves that the CPU has its instructions: only [`Level::run`](super::level::Level::run)
//! creates one, so that its operations are safe to call. Levels may round differently (fused or separate
//! multiply-adds); each gives the same bits on every run.

mod portable;
mod run;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use vector::{Binary, LANES, LevelKernel, Simd, Unary};
