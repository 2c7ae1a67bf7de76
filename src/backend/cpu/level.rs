//! The instruction sets that kernels are written for, detected at run time: the portable build needs no more than the
//! baseline.
//!
//! The environment variable `LLMC_SIMD` sets an upper limit: `plain`, `avx2` or `avx512` (without VNNI and bfloat16). Sums
//! depend on the instruction set, so two machines agree to the bit only at the same level. It limits this module's kernels
//! alone: the linear algebra of calibration (faer) chooses its instructions by itself.

use std::sync::OnceLock;

/// The environment variable with the upper limit.
const LIMIT: &str = "LLMC_SIMD";

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
    /// Returns the best level that this CPU supports, within the limit that the environment sets.
    pub(crate) fn detect() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| Level::of_cpu().limited(std::env::var(LIMIT).ok().as_deref()))
    }

    fn limited(self, limit: Option<&str>) -> Level {
        match (limit, self) {
            (None, _) => self,
            (Some("plain"), _) => Level::Plain,
            (Some("avx2"), Level::Avx512 { .. }) => Level::Avx2,
            (Some("avx512"), Level::Avx512 { .. }) => Level::Avx512 { vnni: false, bf16: false },
            (Some("avx2" | "avx512"), _) => self,
            (Some(other), _) => {
                tracing::warn!("{LIMIT}={other}: expected plain, avx2 or avx512; no limit is set");
                self
            }
        }
    }

    fn of_cpu() -> Level {
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
    pub(crate) fn multiplies_bf16(self) -> bool {
        matches!(self, Level::Avx512 { bf16: true, .. })
    }

    /// Returns every level that this CPU supports, for tests that compare them.
    #[cfg(test)]
    pub(crate) fn usable() -> Vec<Level> {
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
pub(crate) fn instruction_set() -> &'static str {
    match Level::detect() {
        Level::Plain => "plain",
        Level::Avx2 => "avx2",
        Level::Avx512 { .. } => "avx512",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lowers_the_level_and_never_raises_it() {
        let best = Level::Avx512 { vnni: true, bf16: true };
        let plain_512 = Level::Avx512 { vnni: false, bf16: false };
        let limits = [None, Some("plain"), Some("avx2"), Some("avx512"), Some("sse9")];
        let limited = |level: Level| limits.map(|limit| level.limited(limit));
        assert_eq!(limited(best), [best, Level::Plain, Level::Avx2, plain_512, best]);
        assert_eq!(limited(Level::Avx2), [Level::Avx2, Level::Plain, Level::Avx2, Level::Avx2, Level::Avx2]);
        assert_eq!(limited(Level::Plain), [Level::Plain; 5]);
    }
}
