//! The instruction sets that kernels are written for, detected at run time: the portable build needs no more than the
//! baseline.

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Plain Rust, vectorized by the compiler for the baseline: SSE2, NEON. The reference for the others.
    Plain,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, and all of `Avx2`.
    Avx512 {
        /// Sums of products of 8-bit integers (VNNI).
        vnni: bool,
        /// Sums of products of bfloat16.
        bf16: bool,
    },
}

impl Level {
    /// Returns the best level that this CPU supports.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma") && has!("f16c")) {
                return Level::Plain;
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
                return Level::Avx2;
            }
            Level::Avx512 { vnni: has!("avx512vnni"), bf16: has!("avx512bf16") }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Level::Plain
    }

    /// Returns true if the CPU has instructions for products of bfloat16.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Level::Avx512 { bf16: true, .. })
    }

    /// Returns every level that this CPU supports, for tests that compare them.
    #[cfg(test)]
    pub fn usable() -> Vec<Level> {
        match Level::detect() {
            Level::Plain => vec![Level::Plain],
            Level::Avx2 => vec![Level::Plain, Level::Avx2],
            best @ Level::Avx512 { .. } => {
                vec![Level::Plain, Level::Avx2, Level::Avx512 { vnni: false, bf16: false }, best]
            }
        }
    }
}

/// The name of the instruction set that the kernels use on this machine: `plain`, `avx2`, `avx512`.
pub fn instruction_set() -> &'static str {
    match Level::detect() {
        Level::Plain => "plain",
        Level::Avx2 => "avx2",
        Level::Avx512 { .. } => "avx512",
    }
}
