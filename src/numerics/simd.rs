//! Run-time choice of instruction set: one loop, compiled for the baseline and for AVX2.
//!
//! The loops are plain Rust over fixed-size chunks, which LLVM vectorizes: with SSE2 in the portable x86-64 build, with AVX2
//! if the CPU has it, with NEON on aarch64, which always has it. Multiplications and additions are never fused, so that
//! every build computes the same bits.

/// A loop that can be compiled for more than one instruction set. Its fields are its arguments.
pub(crate) trait Kernel {
    /// The result.
    type Output;

    /// Runs the loop. Implementations, and all that they call, must be `#[inline(always)]`: code that is not inlined keeps
    /// the baseline's instructions.
    fn run(self) -> Self::Output;
}

#[cfg(test)]
thread_local! {
    /// Makes this thread run the baseline's build, so that tests see both.
    pub(crate) static PORTABLE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs the best build of a kernel that this CPU can execute.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    if PORTABLE.get() {
        return run_portable(kernel);
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { run_avx2(kernel) };
    }
    run_portable(kernel)
}

/// Runs the baseline's build, out of line: callers need not contain it.
#[inline(never)]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Returns the larger of two; `b` if one is NaN. One instruction (`maxps`); [`f32::max`] takes three.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Returns the smaller of two; `b` if one is NaN.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [f32]);

    impl Kernel for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn run(self) -> f32 {
            self.0.iter().sum()
        }
    }

    #[test]
    fn a_dispatched_kernel_returns_what_the_portable_one_does() {
        let values: Vec<f32> = (0..1000).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        assert_eq!(dispatch(Sum(&values)), Sum(&values).run());
    }

    #[test]
    fn nan_gives_way_to_the_second_argument() {
        assert_eq!(max(f32::NAN, 1.0), 1.0);
        assert_eq!(min(f32::NAN, 1.0), 1.0);
        assert_eq!((max(2.0, 1.0), min(2.0, 1.0)), (2.0, 1.0));
    }
}
