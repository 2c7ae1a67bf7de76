//! Rotations of pairs, in one pass each way: the gradient is rotated back.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::values::{fill_rows, of, see};
use crate::backend::Rotations;
use crate::numerics::simd::Kernel;

/// (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin), where x₁ and x₂ are the halves of what is rotated of each head.
pub(super) struct Rotate(pub Arc<Rotations>);

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = layout.shape().dims2()?;
        Ok((CpuStorage::F32(self.turned(of(x, layout)?, cols, 1.0)), (rows, cols).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, cols) = x.dims2()?;
        let turned = see(gradient, |gradient| Ok(self.turned(gradient, cols, -1.0)))?;
        Tensor::from_vec(turned, (rows, cols), x.device()).map(Some)
    }
}

impl Rotate {
    /// Turned forwards (1) or back (−1).
    fn turned(&self, x: &[f32], cols: usize, direction: f32) -> Vec<f32> {
        let mut out = x.to_vec();
        fill_rows(&mut out, cols, |row, out| Turn { rotations: &self.0, row, cols, direction, out });
        out
    }
}

struct Turn<'a> {
    rotations: &'a Rotations,
    row: usize,
    cols: usize,
    direction: f32,
    out: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let &Rotations { half, head_dim, .. } = self.rotations;
        for (row, out) in self.out.chunks_exact_mut(self.cols).enumerate() {
            let [cos, sin] = [&self.rotations.cos, &self.rotations.sin];
            let [cos, sin] = [cos, sin].map(|all| &all[(self.row + row) * half..][..half]);
            for head in out.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for (((x1, x2), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let sin = sin * self.direction;
                    (*x1, *x2) = (*x1 * cos - *x2 * sin, *x2 * cos + *x1 * sin);
                }
            }
        }
    }
}
