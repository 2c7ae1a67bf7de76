//! Rotary position embeddings (Su et al. 2021, <https://arxiv.org/abs/2104.09864>) in the half-split form of
//! transformers: column i of a head is rotated with column i + half.

use super::elementwise::by_rows;
use super::level::Level;
use super::simd::{LANES, LevelKernel, Simd};
use crate::backend::Rotations;

struct RotateHeads<'a> {
    x: &'a mut [f32],
    cols: usize,
    /// Number of the first row of x.
    first: usize,
    rotations: &'a Rotations,
}

impl LevelKernel for RotateHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rotations { cos, sin, half, head_dim } = self.rotations;
        for (row, x) in self.x.chunks_exact_mut(self.cols).enumerate() {
            let at = (self.first + row) * half;
            let (cos, sin) = (&cos[at..][..*half], &sin[at..][..*half]);
            for head in x.chunks_exact_mut(*head_dim) {
                let (left, right) = head[..2 * half].split_at_mut(*half);
                rotate(simd, left, right, cos, sin);
            }
        }
    }
}

/// Computes (l, r) ← (l·cos − r·sin, r·cos + l·sin).
#[inline(always)]
fn rotate<S: Simd>(simd: S, left: &mut [f32], right: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (lefts, left) = left.as_chunks_mut::<LANES>();
    let (rights, right) = right.as_chunks_mut::<LANES>();
    let ((coss, cos), (sins, sin)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((l, r), c), s) in lefts.iter_mut().zip(rights).zip(coss).zip(sins) {
        turn(simd, l, r, simd.load(c), simd.load(s));
    }
    if !left.is_empty() {
        let (mut l, mut r) = ([0.0; LANES], [0.0; LANES]);
        l[..left.len()].copy_from_slice(left);
        r[..right.len()].copy_from_slice(right);
        turn(simd, &mut l, &mut r, simd.load_part(cos), simd.load_part(sin));
        left.copy_from_slice(&l[..left.len()]);
        right.copy_from_slice(&r[..right.len()]);
    }
}

#[inline(always)]
fn turn<S: Simd>(simd: S, left: &mut [f32; LANES], right: &mut [f32; LANES], cos: S::V, sin: S::V) {
    let (l, r) = (simd.load(left), simd.load(right));
    let negative = simd.sub(simd.splat(0.0), r);
    simd.store(simd.mul_add(negative, sin, simd.mul(l, cos)), left);
    simd.store(simd.mul_add(l, sin, simd.mul(r, cos)), right);
}

/// Rotates every head of every row of x, [rows, cols].
///
/// # Panics
/// If `cols` is no multiple of the head size, or if there are too few rotations.
pub(super) fn rotate_heads(level: Level, x: &mut [f32], cols: usize, rotations: &Rotations) {
    let head_dim = rotations.head_dim;
    assert!(head_dim > 0 && cols.is_multiple_of(head_dim), "rope: {cols} columns are no heads of {head_dim}");
    by_rows(x, cols, |first, x| level.run(RotateHeads { x, cols, first, rotations }));
}
