//! The factor of an input's Hessian: an order of the columns, and the weights with which the error of each column is spread
//! over the later ones. Computed once for all linears that read the input.

use ndarray::Array2;

use super::parameters::ActOrder;
use crate::error::{Error, Result};
use crate::numerics::linalg;

/// The order of the columns, and T of H = R·Rᵀ (R upper triangular), T = R·diag(R)⁻¹.
pub(crate) struct Factor {
    /// The column rounded at each step.
    pub order: Vec<usize>,
    /// T, [step, step]: unit upper triangular; what lies below the diagonal is zero.
    pub feedback: Array2<f32>,
    /// The Hessian's diagonal, \[cols\]; 0 for dead columns.
    pub diagonal: Vec<f32>,
    /// R\[j, j\]² of each step: the loss for each square that its weight loses, if later ones make up for it. 0 for dead
    /// columns.
    pub pivots: Vec<f32>,
}

impl Factor {
    /// Of a Hessian [cols, cols]; `name` is the linear that errors speak of.
    ///
    /// # Errors
    /// A Hessian with NaN or infinities, or one that stays singular under any damping.
    pub(crate) fn new(
        hessian: &Array2<f32>,
        act_order: ActOrder,
        damping: f64,
        name: &str,
    ) -> Result<Factor> {
        refuse_damaged(hessian, name)?;
        let diagonal = hessian.diag().to_vec();
        let order = order(&diagonal, act_order);
        let lower = factorize(hessian, &diagonal, &order, damping).ok_or_else(|| singular(name))?;
        let pivots = (0..order.len()).rev().map(|at| (lower[[at, at]] * lower[[at, at]]) as f32);
        let alive = order.iter().map(|column| f32::from(diagonal[*column] > 0.0));
        let pivots = pivots.zip(alive).map(|(pivot, alive)| pivot * alive).collect();
        Ok(Factor { feedback: feedback(&lower), order, diagonal, pivots })
    }

    /// The weights with which the error of a step is spread over the later steps, up to `end`.
    pub(crate) fn feedback(&self, step: usize, end: usize) -> &[f32] {
        let row = self.feedback.row(step).to_slice().expect("rows of an owned array are contiguous");
        &row[step + 1..end]
    }
}

/// Columns by descending diagonal, equal ones as they stand.
fn order(diagonal: &[f32], act_order: ActOrder) -> Vec<usize> {
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    if act_order != ActOrder::None {
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    }
    order
}

/// Damping that is tried where less did not help, up to once the mean diagonal.
const MORE: f64 = 10.0;
const LEAST: f64 = 1e-4;

/// L of the damped Hessian with its columns in reverse order: L·Lᵀ, which reversed again is R·Rᵀ. Dead columns are
/// independent of all others.
fn factorize(hessian: &Array2<f32>, diagonal: &[f32], order: &[usize], damping: f64) -> Option<Array2<f64>> {
    let live = diagonal.iter().filter(|&&value| value > 0.0);
    let sum: f64 = live.clone().map(|&value| f64::from(value)).sum();
    let mean = if sum > 0.0 { sum / live.count() as f64 } else { 1.0 };
    let mut damping = damping;
    loop {
        let mut lower = Array2::from_shape_fn(hessian.dim(), |(row, col)| {
            let [row, col] = [row, col].map(|step| order[order.len() - 1 - step]);
            match (diagonal[row] > 0.0 && diagonal[col] > 0.0, row == col) {
                (true, true) => f64::from(hessian[[row, col]]) + damping * mean,
                (true, false) => f64::from(hessian[[row, col]]),
                (false, on_diagonal) => f64::from(u8::from(on_diagonal)) * mean,
            }
        });
        if linalg::cholesky(&mut lower) {
            return Some(lower);
        }
        if damping >= 1.0 {
            return None;
        }
        damping = (damping * MORE).max(LEAST);
    }
}

/// T from L: T\[i, j\] = R\[i, j\] / R\[j, j\], R being L read backwards.
fn feedback(lower: &Array2<f64>) -> Array2<f32> {
    let last = lower.nrows().wrapping_sub(1);
    Array2::from_shape_fn(lower.dim(), |(i, j)| {
        if i > j {
            return 0.0;
        }
        (lower[[last - i, last - j]] / lower[[last - j, last - j]]) as f32
    })
}

/// Refuses a Hessian with NaN or infinities, or with a negative diagonal.
pub(crate) fn refuse_damaged(hessian: &Array2<f32>, name: &str) -> Result<()> {
    let wrong = |row, col, value: f32| !value.is_finite() || (row == col && value < 0.0);
    match hessian.indexed_iter().find(|&((row, col), &value)| wrong(row, col, value)) {
        None => Ok(()),
        Some(((row, col), value)) => Err(damaged(name, [row, col], *value)),
    }
}

fn damaged(name: &str, [row, col]: [usize; 2], value: f32) -> Error {
    Error::unsupported(
        format!("{name}: the Hessian of its inputs holds {value} at [{row}, {col}]"),
        "the model overflows on the calibration text, or its weights are damaged: `llmc inspect` counts NaN and infinities",
    )
}

fn singular(name: &str) -> Error {
    Error::unsupported(
        format!(
            "{name}: the Hessian of its inputs is not positive definite, even with its mean diagonal added"
        ),
        "no sum of xᵀx is like that: the statistics are damaged, gather them again",
    )
}
