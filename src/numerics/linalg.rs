//! Dense linear algebra for the methods: products, the Cholesky factorization and eigenvectors, on top of faer. Work is cut
//! into tiles whose sums do not depend on the number of threads.

use std::ops::Range;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::prelude::default;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, LinalgScalar};
use rayon::prelude::*;

/// Rows of the result that one task computes.
const TILE: usize = 128;

/// Computes gram += xᵀ·x, of x: [rows, cols] and gram: [cols, cols], which is symmetric before and after: the upper triangle
/// is computed, in whole tiles, and mirrored.
pub(crate) fn add_gram(gram: &mut Array2<f32>, x: ArrayView2<f32>) {
    let x = x.as_standard_layout();
    let cols = x.ncols();
    let whole =
        MatRef::from_row_major_slice(x.as_slice().expect("standard layout is contiguous"), x.nrows(), cols);
    let gram = gram.as_slice_mut().expect("an owned array is contiguous");
    gram.par_chunks_mut(TILE * cols.max(1)).enumerate().for_each(|(tile, rows)| {
        let (first, count) = (tile * TILE, rows.len() / cols);
        let target = MatMut::from_row_major_slice_mut(rows, count, cols).subcols_mut(first, cols - first);
        let (left, right) = (whole.subcols(first, count), whole.subcols(first, cols - first));
        matmul(target, Accum::Add, left.transpose(), right, 1.0, Par::Seq);
    });
    for row in TILE.min(cols)..cols {
        for col in 0..row / TILE * TILE {
            gram[row * cols + col] = gram[col * cols + row];
        }
    }
}

/// Returns a·b, of a: [rows, inner] and b: [inner, cols], either of them as it is stored or transposed.
///
/// # Panics
/// If the shapes disagree, or a view is of a part of a matrix.
pub(crate) fn product<T: ComplexField + LinalgScalar + Send + Sync>(
    a: ArrayView2<T>,
    b: ArrayView2<T>,
) -> Array2<T> {
    let (rows, cols) = (a.nrows(), b.ncols());
    let mut c = Array2::zeros((rows, cols));
    let (a, b) = (whole(a), whole(b));
    let tiles = c.as_slice_mut().expect("a new array is contiguous").par_chunks_mut(TILE * cols.max(1));
    tiles.enumerate().for_each(|(tile, values)| {
        let count = values.len() / cols;
        let c = MatMut::from_row_major_slice_mut(values, count, cols);
        matmul(c, Accum::Replace, a.subrows(tile * TILE, count), b, T::one(), Par::Seq);
    });
    c
}

fn whole<T: ComplexField>(a: ArrayView2<'_, T>) -> MatRef<'_, T> {
    let (rows, cols) = a.dim();
    match a.to_slice() {
        Some(values) => MatRef::from_row_major_slice(values, rows, cols),
        None => {
            let values = a.reversed_axes().to_slice().expect("a whole matrix, or its transpose");
            MatRef::from_column_major_slice(values, rows, cols)
        }
    }
}

/// Returns Σ w·H·wᵀ over the rows w of W: [rows, cols] and H: [cols, cols].
pub(crate) fn quadratic(w: ArrayView2<f32>, h: ArrayView2<f32>) -> f64 {
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

/// Computes c += a\[rows, cols\]ᵀ·b, on the calling thread: b is row-major [rows, n], c is row-major [cols, n].
///
/// # Panics
/// If the shapes disagree.
pub(crate) fn add_transposed_product(
    c: &mut [f32],
    a: &Array2<f32>,
    rows: Range<usize>,
    cols: Range<usize>,
    b: &[f32],
) {
    if rows.is_empty() || cols.is_empty() {
        return;
    }
    let whole = MatRef::from_row_major_slice(row_major(a), a.nrows(), a.ncols());
    let part = whole.submatrix(rows.start, cols.start, rows.len(), cols.len());
    let b = MatRef::from_row_major_slice(b, rows.len(), b.len() / rows.len());
    let c = MatMut::from_row_major_slice_mut(c, cols.len(), b.ncols());
    matmul(c, Accum::Add, part.transpose(), b, 1.0, Par::Seq);
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor L, a = L·Lᵀ; the upper triangle is not read, and
/// is undefined afterwards. Returns false if the matrix is not positive definite; its values are then undefined.
pub(crate) fn cholesky(a: &mut Array2<f64>) -> bool {
    let n = a.nrows();
    let a = a.as_slice_mut().expect("an owned array is contiguous");
    (0..n).step_by(TILE).all(|first| eliminate(a, n, first..n.min(first + TILE)))
}

/// Returns the inverse of a symmetric matrix, whose lower triangle is read. `None` if it is not positive definite.
pub(crate) fn cholesky_inverse(a: &Array2<f64>) -> Option<Array2<f64>> {
    let mut a = a.as_standard_layout().into_owned();
    let n = a.nrows();
    if !cholesky(&mut a) {
        return None;
    }
    // The rows of the transpose of L⁻¹, a tile of columns at a time.
    let (l, mut turned) = (whole(a.view()), Array2::<f64>::eye(n));
    let rows = turned.as_slice_mut().expect("a new array is contiguous").par_chunks_mut(TILE * n.max(1));
    rows.for_each(|rows| {
        let columns = MatMut::from_row_major_slice_mut(rows, rows.len() / n, n).transpose_mut();
        solve_lower_triangular_in_place(l, columns, Par::Seq);
    });
    Some(product(turned.view(), turned.t()))
}

/// Computes the factor's columns `tile` and subtracts them from the columns behind: one step, right-looking.
fn eliminate(a: &mut [f64], n: usize, tile: Range<usize>) -> bool {
    let width = tile.len();
    let (above, below) = a.split_at_mut(tile.end * n);
    let corner = MatMut::from_row_major_slice_mut(&mut above[tile.start * n..], width, n);
    let mut corner = corner.subcols_mut(tile.start, width);
    let mut scratch = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(width, Par::Seq, default()));
    let stack = MemStack::new(&mut scratch);
    if llt::cholesky_in_place(corner.as_mut(), default(), Par::Seq, stack, default()).is_err() {
        return false;
    }
    let corner = corner.as_ref();
    below.par_chunks_mut(TILE * n).for_each(|rows| {
        let rows = MatMut::from_row_major_slice_mut(rows, rows.len() / n, n).subcols_mut(tile.start, width);
        solve_lower_triangular_in_place(corner, rows.transpose_mut(), Par::Seq);
    });
    let panel: Vec<f64> = below.chunks_exact(n).flat_map(|row| &row[tile.clone()]).copied().collect();
    let panel = MatRef::from_row_major_slice(&panel, n - tile.end, width);
    below.par_chunks_mut(TILE * n).enumerate().for_each(|(index, rows)| {
        let (done, count) = (index * TILE, rows.len() / n);
        let rows = MatMut::from_row_major_slice_mut(rows, count, n).subcols_mut(tile.end, done + count);
        let ours = panel.subrows(done, count);
        matmul(rows, Accum::Add, ours, panel.subrows(0, done + count).transpose(), -1.0, Par::Seq);
    });
    true
}

/// Returns the eigenvectors of a symmetric matrix with the `count` largest eigenvalues, [n, count], the largest first. Only
/// its lower triangle is read. `None` if a value is not finite.
pub(crate) fn leading_eigenvectors(a: &Array2<f64>, count: usize) -> Option<Array2<f64>> {
    let (_, u) = decompose(a)?;
    let n = a.nrows();
    Some(Array2::from_shape_fn((n, count), |(row, col)| u[(row, n - 1 - col)]))
}

/// Returns the eigenvalues of a symmetric matrix, ascending, and its eigenvectors, as columns [n, n]. Only its lower triangle is
/// read. `None` if a value is not finite.
pub(crate) fn eigen(a: &Array2<f64>) -> Option<(Vec<f64>, Array2<f64>)> {
    let (values, u) = decompose(a)?;
    Some((values, Array2::from_shape_fn(a.dim(), |(row, col)| u[(row, col)])))
}

fn decompose(a: &Array2<f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = a.nrows();
    let (mut values, mut u) = (faer::diag::Diag::zeros(n), Mat::zeros(n, n));
    if n > 0 {
        // faer takes one from the size
        let (params, vectors) = (default(), ComputeEigenvectors::Yes);
        let mut scratch = MemBuffer::new(evd::self_adjoint_evd_scratch::<f64>(n, vectors, Par::Seq, params));
        let stack = MemStack::new(&mut scratch);
        let whole = whole(a.view());
        evd::self_adjoint_evd(whole, values.as_mut(), Some(u.as_mut()), Par::Seq, stack, default()).ok()?;
    }
    let values: Vec<f64> = (0..n).map(|i| values[i]).collect();
    values.iter().all(|value| value.is_finite()).then_some((values, u))
}

fn row_major(a: &Array2<f32>) -> &[f32] {
    a.as_slice().expect("an owned array is contiguous")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_support::{largest, uniform};

    #[test]
    fn grams_add_up_on_both_sides_of_the_diagonal() {
        for cols in [1, 5, TILE, TILE + 1, 2 * TILE + 44] {
            let x = Array2::from_shape_fn((7, cols), |(row, col)| ((row * cols + col) as f32 * 0.7).sin());
            let mut gram = x.t().dot(&x);
            let expected = &gram * 2.0;
            add_gram(&mut gram, x.view());
            let apart = largest((&gram - &expected).mapv(f32::abs));
            assert!(apart < 1e-4, "{cols} columns: {apart}");
            let w = Array2::from_shape_fn((3, cols), |(row, col)| (row + col) as f32 * 0.01);
            let plain = w.dot(&gram).iter().zip(&w).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let found = quadratic(w.view(), gram.view());
            assert!((found - plain).abs() <= 1e-4 * plain.abs().max(1.0), "{cols}: {found} {plain}");
        }
    }

    #[test]
    fn a_factor_times_its_transpose_is_the_matrix() {
        for n in [0, 1, 2, 7, TILE, TILE + 1, 2 * TILE + 37] {
            let x = uniform(n + 20, n, 1).mapv(f64::from);
            let a = x.t().dot(&x);
            let mut l = a.clone();
            assert!(cholesky(&mut l), "{n}");
            l.indexed_iter_mut().filter(|((r, c), _)| c > r).for_each(|(_, above)| *above = 0.0);
            let difference = largest((l.dot(&l.t()) - &a).mapv(f64::abs));
            assert!(difference < 1e-9, "{n}: {difference}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        for n in [1, 3, TILE + 5] {
            for bad in [0.0, -1.0, f64::NAN] {
                let mut a = Array2::eye(n);
                a[[n - 1, n - 1]] = bad;
                assert!(!cholesky(&mut a), "{n} {bad}");
            }
        }
    }

    #[test]
    fn products_take_matrices_either_way_round() {
        for [rows, inner, cols] in
            [[1, 1, 1], [0, 3, 2], [3, 0, 2], [3, 2, 0], [5, 7, 3], [2 * TILE + 1, 9, 40]]
        {
            let (a, b) = (uniform(rows, inner, 1), uniform(inner, cols, 2));
            let (a_turned, b_turned) =
                (a.t().as_standard_layout().to_owned(), b.t().as_standard_layout().to_owned());
            let expected = a.dot(&b);
            for (a, b) in [(a.view(), b.view()), (a_turned.t(), b.view()), (a.view(), b_turned.t())] {
                let found = product(a, b);
                assert_eq!(found.dim(), (rows, cols));
                assert!((found - &expected).iter().all(|difference| difference.abs() < 1e-5));
            }
        }
    }

    #[test]
    fn leading_eigenvectors_are_kept_by_the_matrix() {
        for n in [1, 2, 7, 40, TILE + 9] {
            let x = uniform(n + 5, n, 1).mapv(f64::from);
            let a = x.t().dot(&x);
            let u = leading_eigenvectors(&a, n).unwrap();
            let unit = largest((u.t().dot(&u) - Array2::<f64>::eye(n)).mapv(f64::abs));
            assert!(unit < 1e-12, "{n}: {unit}");
            let turned = u.t().dot(&a).dot(&u);
            let values: Vec<f64> = turned.diag().to_vec();
            assert!(values.is_sorted_by(|a, b| a >= b), "{n}: {values:?}");
            let rest = turned - Array2::from_diag(&ndarray::arr1(&values));
            assert!(rest.iter().all(|x| x.abs() < 1e-10 * values[0]), "{n}");
        }
        assert!(leading_eigenvectors(&Array2::zeros((3, 3)), 2).unwrap().iter().all(|x| x.is_finite()));
        assert_eq!(leading_eigenvectors(&Array2::from_elem((3, 3), f64::NAN), 2), None);
    }

    #[test]
    fn products_of_parts_are_those_of_the_plain_sum() {
        let (a, b) = (uniform(50, 40, 1), uniform(20, 3, 2));
        let mut c = uniform(9, 3, 3);
        let expected = &c + &a.slice(ndarray::s![10..30, 31..40]).t().dot(&b);
        add_transposed_product(c.as_slice_mut().unwrap(), &a, 10..30, 31..40, b.as_slice().unwrap());
        assert!((c - expected).iter().all(|difference| difference.abs() < 1e-5));
        add_transposed_product(&mut [], &a, 3..3, 5..9, &[]);
    }
}
