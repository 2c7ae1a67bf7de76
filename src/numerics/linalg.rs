//! Dense linear algebra for the methods: products, on top of faer, cut into tiles whose sums do not depend on how many
//! threads share them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Rows of the result that one task computes.
const TILE: usize = 128;

/// gram += xᵀ·x, of x: [rows, cols] and gram: [cols, cols].
pub fn add_gram(gram: &mut Array2<f32>, x: ArrayView2<f32>) {
    let x = x.as_standard_layout();
    let cols = x.ncols();
    let whole =
        MatRef::from_row_major_slice(x.as_slice().expect("standard layout is contiguous"), x.nrows(), cols);
    let gram = gram.as_slice_mut().expect("an owned array is contiguous");
    gram.par_chunks_mut(TILE * cols.max(1)).enumerate().for_each(|(tile, rows)| {
        let count = rows.len() / cols;
        let target = MatMut::from_row_major_slice_mut(rows, count, cols);
        matmul(target, Accum::Add, whole.subcols(tile * TILE, count).transpose(), whole, 1.0, Par::Seq);
    });
}

/// Σ w·H·wᵀ over the rows w of W: [rows, cols] and H: [cols, cols].
pub fn quadratic(w: ArrayView2<f32>, h: ArrayView2<f32>) -> f64 {
    let (w, h) = (w.as_standard_layout(), h.as_standard_layout());
    let (w, cols) = (w.as_slice().expect("standard layout is contiguous"), w.ncols().max(1));
    let h = MatRef::from_row_major_slice(h.as_slice().expect("standard layout is contiguous"), cols, cols);
    let tile = |rows: &[f32]| {
        let count = rows.len() / cols;
        let mut product = vec![0.0; rows.len()];
        let target = MatMut::from_row_major_slice_mut(&mut product, count, cols);
        matmul(target, Accum::Replace, MatRef::from_row_major_slice(rows, count, cols), h, 1.0, Par::Seq);
        rows.iter().zip(&product).map(|(w, wh)| f64::from(*w) * f64::from(*wh)).sum::<f64>()
    };
    let sums: Vec<f64> = w.par_chunks(TILE * cols).map(tile).collect();
    sums.iter().sum()
}
