//! Least squares: a weight changed so that what was cut away is made up for.

use ndarray::{Array2, ArrayView2};

use crate::numerics::linalg::{add_gram, cholesky_inverse, product};
use crate::statistics::Statistics;

/// λ is this part of the mean of the Gram matrix's diagonal, times columns per token: the fewer tokens, the more of what the
/// outputs lack is chance. SmolLM2-135M, 50 % by `sparsegpt`, 1536 columns and 16,384 tokens, λ in means of the diagonal and the mean KL
/// divergence: 0.01 0.362, 0.1 0.330, 1 0.316, 4 0.344.
const DAMPING: f64 = 10.0;

/// The sums over tokens behind the least squares of one weight, [rows, cols].
pub(crate) struct Refit {
    /// Σ x·xᵀ over its inputs, [cols, cols].
    gram: Array2<f32>,
    /// Σ e·xᵀ over what its outputs lack, [rows, cols].
    lacking: Array2<f64>,
    tokens: usize,
}

impl Refit {
    /// Sums of a weight of this shape.
    pub(crate) fn new([rows, cols]: [usize; 2]) -> Refit {
        Refit { gram: Array2::zeros((cols, cols)), lacking: Array2::zeros((rows, cols)), tokens: 0 }
    }

    /// Adds some tokens: inputs, [tokens, cols], and what the outputs lack, [tokens, rows].
    pub(crate) fn add(&mut self, inputs: ArrayView2<f32>, lacks: ArrayView2<f32>) {
        self.tokens += inputs.nrows();
        add_gram(&mut self.gram, inputs);
        self.lacking += &product(lacks.t(), inputs).mapv(f64::from);
    }

    /// The weight whose outputs lack least: W + Σ e·xᵀ·(Σ x·xᵀ + λ·I)⁻¹. `None` if the sums are not finite.
    pub(crate) fn solve(&self, weight: ArrayView2<f32>) -> Option<Array2<f32>> {
        let mut gram = self.gram.mapv(f64::from);
        let mean = gram.diag().mean().unwrap_or(0.0);
        let damping = DAMPING * gram.ncols() as f64 / self.tokens.max(1) as f64;
        gram.diag_mut().mapv_inplace(|x| x + if mean > 0.0 { damping * mean } else { 1.0 });
        let finite = gram.iter().chain(&self.lacking).all(|x| x.is_finite());
        let inverse = cholesky_inverse(&gram).filter(|_| finite)?;
        let change = product(self.lacking.view(), inverse.view());
        Some(Array2::from_shape_fn(weight.dim(), |at| (f64::from(weight[at]) + change[at]) as f32))
    }

    /// The sums over the inputs.
    pub(crate) fn statistics(self) -> Statistics {
        let tokens = self.tokens as u64;
        let sum_squares = self.gram.diag().iter().map(|square| f64::from(*square)).collect();
        Statistics { tokens, sum_squares, gram: Some(self.gram), ..Statistics::default() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_support::{largest, normal};

    /// Outputs that lack a linear function of the inputs are made whole by the least squares.
    #[test]
    fn what_the_inputs_explain_is_made_up_for() {
        let (x, w, missing) = (normal(12_000, 12, 1), normal(5, 12, 2), normal(5, 12, 3));
        let mut refit = Refit::new([5, 12]);
        let lacks = x.dot(&missing.t());
        for start in (0..12_000).step_by(3000) {
            let rows = ndarray::s![start..start + 3000, ..];
            let (x, lacks) = (x.slice(rows).to_owned(), lacks.slice(rows).to_owned());
            refit.add(x.view(), lacks.view());
        }
        let found = refit.solve(w.view()).unwrap();
        let error = largest((&found - &w - &missing).iter().map(|x| x.abs()));
        assert!(error < 0.05, "{error}");
    }

    #[test]
    fn sums_that_are_not_finite_are_refused() {
        let mut refit = Refit::new([1, 2]);
        refit.add(ndarray::array![[f32::INFINITY, 1.0]].view(), ndarray::array![[1.0]].view());
        assert_eq!(refit.solve(ndarray::array![[1.0, 2.0]].view()), None);
    }
}
