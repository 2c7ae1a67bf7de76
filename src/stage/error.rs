//! The error that codes make in the outputs of a linear.

use ndarray::{ArrayView1, ArrayView2};

use crate::numerics::linalg;
use crate::statistics::Statistics;

/// Returns ‖(W − Q)·X‖ / ‖W·X‖ over the inputs X of the statistics; without statistics, the error of the weights alone.
pub fn relative_error(w: ArrayView2<f32>, q: ArrayView2<f32>, statistics: Option<&Statistics>) -> f64 {
    let whole = output_power(w, statistics);
    if whole > 0.0 { (error_power(w, q, statistics) / whole).sqrt() } else { 0.0 }
}

/// Returns ‖(W − Q)·X‖², with the same X as [`relative_error`].
pub(crate) fn error_power(w: ArrayView2<f32>, q: ArrayView2<f32>, statistics: Option<&Statistics>) -> f64 {
    output_power((&q - &w).view(), statistics)
}

/// Returns ‖W·X‖² if the Gram matrix of the inputs is known, Σ w²·x² if the squares of their columns are, else ‖W‖².
fn output_power(w: ArrayView2<f32>, statistics: Option<&Statistics>) -> f64 {
    match statistics {
        Some(Statistics { gram: Some(gram), .. }) => linalg::quadratic(w, gram.view()).max(0.0),
        Some(Statistics { sum_squares, .. }) if !sum_squares.is_empty() => {
            let row = |row: ArrayView1<f32>| {
                row.iter().zip(sum_squares).map(|(w, h)| f64::from(w * w) * h).sum::<f64>()
            };
            w.rows().into_iter().map(row).sum()
        }
        _ => w.iter().map(|value| f64::from(value * value)).sum(),
    }
}
