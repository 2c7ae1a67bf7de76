//! SiLU(left half)·right half (SwiGLU: Shazeer 2020, <https://arxiv.org/abs/2002.05202>), in one pass each way.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::values::{exp, fill_rows, of, see};
use crate::numerics::simd::Kernel;

/// [rows, 2n] → [rows, n].
pub(super) struct SiluGate;

impl CustomOp1 for SiluGate {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = layout.shape().dims2()?;
        let (x, width) = (of(x, layout)?, cols / 2);
        let mut out = vec![0.0; rows * width];
        fill_rows(&mut out, width, |row, out| Forward { x: &x[row * cols..][..2 * out.len()], width, out });
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, cols) = x.dims2()?;
        let mut out = vec![0.0; rows * cols];
        see(x, |x| {
            see(gradient, |gradient| {
                fill_rows(&mut out, cols, |row, out| Backward {
                    x: &x[row * cols..][..out.len()],
                    gradient: &gradient[row * cols / 2..][..out.len() / 2],
                    width: cols / 2,
                    out,
                });
                Ok(())
            })
        })?;
        Tensor::from_vec(out, (rows, cols), x.device()).map(Some)
    }
}

/// σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Forward<'a> {
    x: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (x, out) in self.x.chunks_exact(2 * self.width).zip(self.out.chunks_exact_mut(self.width)) {
            let (left, right) = x.split_at(self.width);
            for ((left, right), out) in left.iter().zip(right).zip(out) {
                *out = left * sigmoid(*left) * right;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// SiLU'(x) = σ·(1 + x·(1 − σ)).
    #[inline(always)]
    fn run(self) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.gradient.chunks_exact(self.width));
        for ((x, gradient), out) in rows.zip(self.out.chunks_exact_mut(2 * self.width)) {
            let ((left, right), (for_left, for_right)) =
                (x.split_at(self.width), out.split_at_mut(self.width));
            let inputs = left.iter().zip(right).zip(gradient);
            for (((left, right), gradient), (for_left, for_right)) in
                inputs.zip(for_left.iter_mut().zip(for_right))
            {
                let s = sigmoid(*left);
                *for_left = gradient * right * (s * (1.0 + left * (1.0 - s)));
                *for_right = gradient * (left * s);
            }
        }
    }
}
