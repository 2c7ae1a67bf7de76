//! Vectors of 16 floats, written once and compiled for AVX-512, for AVX2 with FMA, and portably (where LLVM makes of them
//! what the target's baseline has: SSE2, NEON).
//!
//! A [`Simd`] is proof that the CPU has its instructions: only [`Level::run`] makes them, so that its operations are safe to
//! call. Levels may round differently (fused or separate multiply-adds); each gives the same bits on every run.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::level::Level;

/// Floats of a vector: one AVX-512 register, two of AVX2, four of SSE2 or NEON.
pub(super) const LANES: usize = 16;

/// One level's operations on vectors of [`LANES`] floats.
///
/// Every function that takes a `Simd` must be `#[inline(always)]` up to its [`Kernel::run`], and no closure may touch a
/// vector: code that is not inlined keeps the baseline's instructions, and each operation becomes a call.
pub(super) trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// Whether some 30 vectors fit into the registers, or only half a dozen.
    const MANY_REGISTERS: bool;

    /// The same in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// From memory.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// To memory.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a/b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c, fused where the CPU can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `x` where a < b, else `y`.
    fn where_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// v·2ⁿ for whole n of -250..=250, correctly rounded where the result is normal.
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, pairwise: lane i with lane i + 8, then i + 4, and so on.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, v: Self::V) -> f32;

    /// Without the sign.
    #[inline(always)]
    fn abs(self, v: Self::V) -> Self::V {
        self.max(self.sub(self.splat(0.0), v), v)
    }

    /// To the nearest whole number, ties to even; for |v| < 2²².
    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // 1.5·2²³: beyond it, floats are whole.
        let shift = self.splat(12_582_912.0);
        self.sub(self.add(v, shift), shift)
    }

    /// Loads at most [`LANES`] floats, zeros behind them.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// Replaces every element by a function of it. The end that fills no vector goes through the same function.
    #[inline(always)]
    fn map(self, x: &mut [f32], f: impl Unary) {
        let (vectors, rest) = x.as_chunks_mut::<LANES>();
        for vector in vectors {
            self.store(f.of(self, self.load(vector)), vector);
        }
        if !rest.is_empty() {
            let mut lanes = [0.0; LANES];
            self.store(f.of(self, self.load_part(rest)), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }

    /// Writes a function of two rows, element by element.
    #[inline(always)]
    fn zip(self, a: &[f32], b: &[f32], out: &mut [f32], f: impl Binary) {
        let (vectors, rest) = out.as_chunks_mut::<LANES>();
        let (a, a_rest) = a.as_chunks::<LANES>();
        let (b, b_rest) = b.as_chunks::<LANES>();
        for ((vector, a), b) in vectors.iter_mut().zip(a).zip(b) {
            self.store(f.of(self, self.load(a), self.load(b)), vector);
        }
        if !rest.is_empty() {
            let mut lanes = [0.0; LANES];
            self.store(f.of(self, self.load_part(a_rest), self.load_part(b_rest)), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

/// A function of one vector; `#[inline(always)]`, as a closure could not be.
pub(super) trait Unary: Copy {
    /// f(x).
    fn of<S: Simd>(self, simd: S, x: S::V) -> S::V;
}

/// A function of two vectors; `#[inline(always)]`.
pub(super) trait Binary: Copy {
    /// f(a, b).
    fn of<S: Simd>(self, simd: S, a: S::V, b: S::V) -> S::V;
}

/// A computation that is compiled for every level. Its fields are its arguments.
pub(super) trait Kernel {
    /// What it computes.
    type Output;

    /// The computation; `#[inline(always)]`, with all that it calls.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Level {
    /// Runs a kernel's build for this level.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 { .. } => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::run_avx2(kernel),
            _ => kernel.run(Portable),
        }
    }
}

/// Arrays and plain loops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

/// 2ⁿ for whole n of -126..=127, by the bits of its exponent.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Halves fold upon halves, as registers do.
#[inline(always)]
fn fold(mut v: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            v[i] = f(v[i], v[i + half]);
        }
    }
    v[0]
}

impl Simd for Portable {
    type V = [f32; LANES];
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    #[allow(clippy::disallowed_methods)] // Levels need not agree to the bit here.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction, f32::mul_add is a call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        lanes(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn where_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V {
        // In two steps, so that neither power leaves the exponent's range.
        let half = self.round(self.mul(n, self.splat(0.5)));
        lanes(|i| v[i] * power_of_two(half[i]) * power_of_two(n[i] - half[i]))
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        fold(v, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        fold(v, |a, b| if a > b { a } else { b })
    }
}
