//! Rows of one tensor through a quantizing method.

use ndarray::Array2;

use crate::error::Result;
use crate::numerics::{Extent, QTensor, Scheme, Weight};
use crate::plan::TensorPlan;
use crate::stage::{BlockLinear, Quantize, quantize_linear};

/// Runs a method on rows of one linear.
pub(crate) fn quantize_rows(
    method: &dyn Quantize,
    tensor: &TensorPlan,
    scheme: &Scheme,
    extent: Option<Extent>,
    importance: Option<Vec<f32>>,
    values: Vec<f32>,
) -> Result<QTensor> {
    let [_, cols] = tensor.rows_cols();
    let rows = values.len().checked_div(cols).unwrap_or(0);
    let dense = Array2::from_shape_vec((rows, cols), values).expect("gather returns rows x cols values");
    let linear = BlockLinear::new(&tensor.output.name, *scheme, Weight::Dense(dense));
    quantize_linear(method, BlockLinear { extent, importance, ..linear })
}
