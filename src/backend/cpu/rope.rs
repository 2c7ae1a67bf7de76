//! Rotary position embeddings (Su et al. 2021, <https://arxiv.org/abs/2104.09864>) in the half-split form of transformers:
//! column i of a head turns with column i + half.

use super::elementwise::by_rows;
use super::level::Level;
use super::simd::{Kernel, LANES, Simd};
use crate::backend::Rotations;

struct Rotate<'a> {
    x: &'a mut [f32],
    cols: usize,
    /// Of the first row of x.
    first: usize,
    rotations: &'a Rotations,
}

impl Kernel for Rotate<'_> {
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

/// (l, r) ← (l·cos − r·sin, r·cos + l·sin).
#[inline(always)]
fn rotate<S: Simd>(simd: S, left: &mut [f32], right: &mut [f32], cos: &[f32], sin: &[f32]) {
    let turn = |l, r, c, s| {
        let negative = simd.sub(simd.splat(0.0), r);
        (simd.mul_add(negative, s, simd.mul(l, c)), simd.mul_add(l, s, simd.mul(r, c)))
    };
    let (lefts, left) = left.as_chunks_mut::<LANES>();
    let (rights, right) = right.as_chunks_mut::<LANES>();
    let ((coss, cos), (sins, sin)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((l, r), c), s) in lefts.iter_mut().zip(rights).zip(coss).zip(sins) {
        let turned = turn(simd.load(l), simd.load(r), simd.load(c), simd.load(s));
        simd.store(turned.0, l);
        simd.store(turned.1, r);
    }
    let (mut l, mut r) = ([0.0; LANES], [0.0; LANES]);
    let parts = [&*left, &*right, cos, sin].map(|part| simd.load_part(part));
    let turned = turn(parts[0], parts[1], parts[2], parts[3]);
    simd.store(turned.0, &mut l);
    simd.store(turned.1, &mut r);
    left.copy_from_slice(&l[..left.len()]);
    right.copy_from_slice(&r[..right.len()]);
}

/// Rotates every head of every row of x, [rows, cols].
///
/// # Panics
/// Where `cols` is no multiple of the heads' size, or the rotations are too few.
pub(super) fn rotate_heads(level: Level, x: &mut [f32], cols: usize, rotations: &Rotations) {
    let head_dim = rotations.head_dim;
    assert!(head_dim > 0 && cols.is_multiple_of(head_dim), "rope: {cols} columns are no heads of {head_dim}");
    by_rows(x, cols, |first, x| level.run(Rotate { x, cols, first, rotations }));
}
