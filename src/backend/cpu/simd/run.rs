//! [`Level::run`]: the choice of a kernel's build.

use super::super::level::Level;
use super::portable::Portable;
use super::vector::LevelKernel;
#[cfg(target_arch = "x86_64")]
use super::x86;

impl Level {
    /// Runs a kernel's build for this level.
    pub(in super::super) fn run<K: LevelKernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 { .. } => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::run_avx2(kernel),
            _ => kernel.run(Portable),
        }
    }
}
