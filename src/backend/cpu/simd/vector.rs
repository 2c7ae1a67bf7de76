//! The interface of vectors: [`Simd`], and the functions and kernels that are written with it.

/// Floats of a vector: one AVX-512 register, two of AVX2, four of SSE2 or NEON.
pub(in super::super) const LANES: usize = 16;

/// The operations of one level on vectors of [`LANES`] floats.
///
/// Every function that takes a `Simd` must be `#[inline(always)]` up to its [`LevelKernel::run`], and no closure may
/// use a vector: code that is not inlined uses the baseline's instructions, and each operation becomes a call.
pub(in super::super) trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// True if about 30 vectors fit into the registers; false if only about six do.
    const MANY_REGISTERS: bool;

    /// Returns `x` in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// Loads a vector from memory.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Stores a vector to memory.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Returns a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns a − b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns a·b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns a/b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns a·b + c, fused if the CPU can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `x` if a < b, else `y`, per lane.
    fn where_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Returns v·2ⁿ for whole n of -250..=250, correctly rounded if the result is normal.
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V;
    /// Returns the sum of the lanes, pairwise: lane i with lane i + 8, then i + 4, and so on.
    fn sum(self, v: Self::V) -> f32;
    /// Returns the largest lane.
    fn largest(self, v: Self::V) -> f32;

    /// Returns the absolute value.
    #[inline(always)]
    fn abs(self, v: Self::V) -> Self::V {
        self.max(self.sub(self.splat(0.0), v), v)
    }

    /// Rounds to the nearest whole number, ties to even; for |v| < 2²².
    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // 1.5·2²³: floats beyond it are whole.
        let shift = self.splat(12_582_912.0);
        self.sub(self.add(v, shift), shift)
    }

    /// Loads at most [`LANES`] floats, followed by zeros.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// Replaces every element by a function of it. The remainder that fills no vector uses the same function.
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

/// A function of one vector. It must be `#[inline(always)]`, which a closure cannot be.
pub(in super::super) trait Unary: Copy {
    /// Returns f(x).
    fn of<S: Simd>(self, simd: S, x: S::V) -> S::V;
}

/// A function of two vectors. It must be `#[inline(always)]`.
pub(in super::super) trait Binary: Copy {
    /// Returns f(a, b).
    fn of<S: Simd>(self, simd: S, a: S::V, b: S::V) -> S::V;
}

/// A computation that is compiled for every level. Its fields are its arguments.
pub(in super::super) trait LevelKernel {
    /// The type of the result.
    type Output;

    /// Runs the computation; `#[inline(always)]`, with everything that it calls.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
