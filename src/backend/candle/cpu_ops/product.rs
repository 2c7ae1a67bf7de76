//! x·Wᵀ and its gradients, by faer.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::values::{of, see};

/// Rows of the result that one task computes, at most.
const TILE: usize = 256;

/// a·b, row-major. Cut into tiles by shape alone: sums do not depend on how many threads share them.
pub(super) fn multiply(a: MatRef<f32>, b: MatRef<f32>) -> Vec<f32> {
    let (rows, cols) = (a.nrows(), b.ncols());
    let mut out = vec![0.0; rows * cols];
    let tile = rows.div_ceil(8).next_multiple_of(32).clamp(1, TILE);
    out.par_chunks_mut(tile * cols.max(1)).enumerate().for_each(|(i, out)| {
        let count = out.len() / cols;
        let target = MatMut::from_row_major_slice_mut(out, count, cols);
        matmul(target, Accum::Replace, a.subrows(i * tile, count), b, 1.0, Par::Seq);
    });
    out
}

/// (x [rows, cols], W [out, cols]) → x·Wᵀ.
pub(super) struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, cols), (out, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        let x = MatRef::from_row_major_slice(of(x, x_layout)?, rows, cols);
        let w = MatRef::from_row_major_slice(of(w, w_layout)?, out, cols);
        Ok((CpuStorage::F32(multiply(x, w.transpose())), (rows, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, cols), out) = (x.dims2()?, w.dim(0)?);
        let multiplied = |a: &Tensor, b: &Tensor, rows: usize, transposed: bool| {
            let values = see(a, |a| {
                let a = MatRef::from_row_major_slice(a, x.dim(0)?, out);
                let a = if transposed { a.transpose() } else { a };
                see(b, |b| Ok(multiply(a, MatRef::from_row_major_slice(b, a.ncols(), cols))))
            })?;
            Tensor::from_vec(values, (rows, cols), b.device())
        };
        let for_x = x.track_op().then(|| multiplied(gradient, w, rows, false)).transpose()?;
        let for_w = w.track_op().then(|| multiplied(gradient, x, out, true)).transpose()?;
        Ok((for_x, for_w))
    }
}
