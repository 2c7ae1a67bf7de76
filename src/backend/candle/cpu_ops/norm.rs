//! RMSNorm and LayerNorm with weights that are not trained, in one pass each way.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::values::{fill_rows, of, see, total};
use crate::backend::NormWeights;
use crate::numerics::simd::Kernel;

/// x → (x − mean)/√(variance + ε)·weight + bias of each run of columns; the mean only where the norm is centered.
pub(super) struct Normalize(pub Arc<NormWeights>);

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = layout.shape().dims2()?;
        let (x, norm) = (of(x, layout)?, self.0.as_ref());
        let mut out = vec![0.0; rows * cols];
        fill_rows(&mut out, cols, |row, out| Forward { x: &x[row * cols..][..out.len()], norm, out });
        Ok((CpuStorage::F32(out), (rows, cols).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, cols) = x.dims2()?;
        let mut out = vec![0.0; rows * cols];
        see(x, |x| {
            see(gradient, |gradient| {
                fill_rows(&mut out, cols, |row, out| {
                    let [x, gradient] = [x, gradient].map(|all| &all[row * cols..][..out.len()]);
                    Backward { x, gradient, norm: &self.0, out }
                });
                Ok(())
            })
        })?;
        Tensor::from_vec(out, (rows, cols), x.device()).map(Some)
    }
}

/// Mean (0 where the norm is not centered) and 1/√(variance + ε) of a run.
#[inline(always)]
fn moments(x: &[f32], norm: &NormWeights) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if norm.centered { total(x, x, |x, _| x) / n } else { 0.0 };
    let variance = total(x, x, |x, _| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + norm.epsilon).sqrt())
}

struct Forward<'a> {
    x: &'a [f32],
    norm: &'a NormWeights,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.norm.width;
        let weights = self.norm.weight.chunks_exact(width).cycle();
        for ((x, out), weight) in
            self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)).zip(weights)
        {
            let (mean, factor) = moments(x, self.norm);
            for ((x, out), weight) in x.iter().zip(out).zip(weight) {
                *out = (x - mean) * factor * weight;
            }
        }
        if let Some(bias) = &self.norm.bias {
            for out in self.out.chunks_exact_mut(bias.len()) {
                out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    norm: &'a NormWeights,
    out: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With y = (x − mean)·factor and h = gradient·weight: factor·(h − mean(h·y)·y), less mean(factor·h) where centered.
    #[inline(always)]
    fn run(self) {
        let width = self.norm.width;
        let n = width as f32;
        let weights = self.norm.weight.chunks_exact(width).cycle();
        let runs = self.x.chunks_exact(width).zip(self.gradient.chunks_exact(width));
        for (((x, gradient), out), weight) in runs.zip(self.out.chunks_exact_mut(width)).zip(weights) {
            let (mean, factor) = moments(x, self.norm);
            out.iter_mut().zip(gradient).zip(weight).for_each(|((out, g), weight)| *out = g * weight);
            let along = total(out, x, |h, x| h * ((x - mean) * factor)) / n;
            let level = if self.norm.centered { total(out, out, |h, _| h) / n } else { 0.0 };
            for (out, x) in out.iter_mut().zip(x) {
                *out = factor * (*out - level - along * ((x - mean) * factor));
            }
        }
    }
}
