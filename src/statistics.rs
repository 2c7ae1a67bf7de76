//! Statistics of the inputs of linear layers: calibration gathers them, methods read them. They are sums over tokens, divided
//! only when they are read, so that statistics of several runs, of several ranks, or of a resumed run add up.

use ndarray::{Array2, ArrayView2};

use crate::numerics::linalg;

/// The statistics that a method needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The largest magnitude of each column.
    pub absmax: bool,
    /// The mean magnitude of each column.
    pub mean_abs: bool,
    /// The mean square of each column: the diagonal of the Hessian, and llama.cpp's importance.
    pub second_moment: bool,
    /// The whole second moment, \[cols, cols\].
    pub hessian: bool,
}

impl Needs {
    /// The weights of columns.
    pub(crate) const IMPORTANCE: Needs =
        Needs { absmax: false, mean_abs: false, second_moment: true, hessian: false };

    /// Returns true if any statistic is needed.
    pub(crate) fn any(self) -> bool {
        self != Needs::default()
    }

    /// Returns the needs of both.
    pub(crate) fn union(self, other: Needs) -> Needs {
        Needs {
            absmax: self.absmax || other.absmax,
            mean_abs: self.mean_abs || other.mean_abs,
            second_moment: self.second_moment || other.second_moment,
            hessian: self.hessian || other.hessian,
        }
    }
}

/// Returns the larger of a magnitude and that of a value. NaN stays, unlike with [`f32::max`], so that it is found.
pub(crate) fn largest(max: f32, x: f32) -> f32 {
    if x.abs() > max || x.is_nan() { x.abs() } else { max }
}

/// Statistics of the input x of one or several linears, [tokens, cols]. Those that are not needed are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Number of tokens.
    pub tokens: u64,
    /// max |x|, \[cols\].
    pub absmax: Vec<f32>,
    /// Σ |x|, \[cols\].
    pub sum_abs: Vec<f64>,
    /// Σ x², \[cols\].
    pub sum_squares: Vec<f64>,
    /// Σ xᵀx, [cols, cols], both triangles.
    pub gram: Option<Array2<f32>>,
}

impl Statistics {
    /// Creates statistics of no tokens.
    pub fn new(cols: usize, needs: Needs) -> Statistics {
        let len = |needed: bool| if needed { cols } else { 0 };
        Statistics {
            tokens: 0,
            absmax: vec![0.0; len(needs.absmax)],
            sum_abs: vec![0.0; len(needs.mean_abs)],
            sum_squares: vec![0.0; len(needs.second_moment)],
            gram: needs.hessian.then(|| Array2::zeros((cols, cols))),
        }
    }

    /// The number of columns; `None` if nothing is gathered.
    pub(crate) fn columns(&self) -> Option<usize> {
        let lengths = [self.absmax.len(), self.sum_abs.len(), self.sum_squares.len()];
        let gram = self.gram.as_ref().map(|gram| gram.ncols());
        gram.or_else(|| lengths.into_iter().find(|len| *len > 0))
    }

    /// Adds tokens, [rows, cols] each; a NaN stays. Sums run in the order of the rows, whatever the number of threads.
    pub fn observe(&mut self, x: ArrayView2<f32>) {
        self.tokens += x.nrows() as u64;
        for row in x.rows() {
            self.absmax.iter_mut().zip(row).for_each(|(max, x)| *max = largest(*max, *x));
            self.sum_abs.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
            self.sum_squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
        if let Some(gram) = &mut self.gram {
            linalg::add_gram(gram, x);
        }
    }

    /// Adds statistics of the same columns.
    pub(crate) fn merge(&mut self, other: &Statistics) {
        self.tokens += other.tokens;
        self.absmax.iter_mut().zip(&other.absmax).for_each(|(max, other)| *max = largest(*max, *other));
        self.sum_abs.iter_mut().zip(&other.sum_abs).for_each(|(sum, other)| *sum += other);
        self.sum_squares.iter_mut().zip(&other.sum_squares).for_each(|(sum, other)| *sum += other);
        if let (Some(gram), Some(other)) = (&mut self.gram, &other.gram) {
            *gram += other;
        }
    }

    /// Returns the mean x² of each column; empty if it was not gathered.
    pub(crate) fn second_moment(&self) -> Vec<f32> {
        self.mean(&self.sum_squares)
    }

    /// Returns the mean of xᵀx, [cols, cols]: half the Hessian of the squared error of a linear's output in its weights.
    /// `None` if it was not gathered.
    pub(crate) fn hessian(&self) -> Option<Array2<f32>> {
        let tokens = self.tokens.max(1) as f32;
        self.gram.as_ref().map(|gram| gram / tokens)
    }

    fn mean(&self, sums: &[f64]) -> Vec<f32> {
        sums.iter().map(|sum| (sum / self.tokens.max(1) as f64) as f32).collect()
    }
}
