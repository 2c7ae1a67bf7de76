//! A decoder block as methods see it: the weights they may change, and what is known of what flows through them.

use std::sync::Arc;

use candle_core::Tensor;
use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::error::{Error, Result};
use crate::model::{Fold, NormPlace};
use crate::numerics::{Context, Extent, LowRank, Scheme, Weight, linalg};
use crate::statistics::Statistics;

/// A linear layer (or a range of its rows) on its way through the stages of a recipe.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its weight's name, `.weight` included.
    pub name: String,
    /// What it is to become; `None` where it stays dense, and can be rewritten only.
    pub scheme: Option<Scheme>,
    /// Extent of the whole (fused) tensor, where the scheme needs one.
    pub extent: Option<Extent>,
    /// How much each column matters, where known: the second moment of its inputs.
    pub importance: Option<Vec<f32>>,
    /// Dense before, quantized after.
    pub weight: Weight,
    /// What is added to its outputs, \[rows\].
    pub bias: Option<Vec<f32>>,
    /// Index into [`Block::inputs`] of what it reads, where calibration gathered that.
    pub input: Option<usize>,
    /// Whether it writes to the residual stream.
    pub writes_residual: bool,
    /// ‖(W − Q)·X‖ / ‖W·X‖ on the calibration set, where the method has measured it.
    pub relative_error: Option<f64>,
    /// What is added to the values that the codes stand for.
    pub compensation: Option<LowRank>,
    /// The relative error with it.
    pub compensated_error: Option<f64>,
}

impl Linear {
    /// A linear by itself, of which nothing is known but its weight.
    pub fn alone(name: impl Into<String>, scheme: Scheme, weight: Weight) -> Linear {
        Linear {
            name: name.into(),
            scheme: Some(scheme),
            extent: None,
            importance: None,
            weight,
            bias: None,
            input: None,
            writes_residual: false,
            relative_error: None,
            compensation: None,
            compensated_error: None,
        }
    }

    /// The values to quantize, [rows, cols]. Of a weight that is quantized already: an error.
    pub fn dense(&self) -> Result<ArrayView2<'_, f32>> {
        match &self.weight {
            Weight::Dense(values) => Ok(values.view()),
            Weight::Quantized(_) => Err(Error::unsupported(
                format!("{}: quantized already", self.name),
                "quantize each linear in one stage of the recipe only",
            )),
        }
    }

    /// The values that it computes with, [rows, cols]: of codes, with what makes up for their error.
    pub fn values(&self) -> Array2<f32> {
        let values = self.weight.clone().into_values();
        match &self.compensation {
            Some(factors) => values + factors.values(),
            None => values,
        }
    }

    /// What the scheme may know beyond the values.
    pub fn context(&self) -> Context<'_> {
        Context { extent: self.extent, importance: self.importance.as_deref() }
    }
}

/// The scale (and shift) of a norm, as it multiplies: one is added already where the file leaves it out (Gemma).
#[derive(Debug, Clone)]
pub struct Norm {
    /// Where it is in the file.
    pub place: NormPlace,
    /// Multiplies the normalized values, \[width\].
    pub weight: Vec<f32>,
    /// Is added to them.
    pub bias: Option<Vec<f32>>,
}

/// What a method works on: a decoder block, the linears of a block that read the same input, or, for methods without
/// data, a range of rows of one linear.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Number of the block in the model.
    pub index: usize,
    /// In the order of the forward pass; those that stay dense too, where the whole block is given.
    pub linears: Vec<Linear>,
    /// Norms whose outputs linears of the block read.
    pub norms: Vec<Norm>,
    /// Which columns of linears may be scaled, where what makes their inputs is scaled the other way: indices into
    /// `norms` and `linears`.
    pub folds: Vec<Fold>,
    /// What is known of the inputs: indexed by [`Linear::input`].
    pub inputs: Vec<Statistics>,
    /// The block as a function that gradients pass through, for methods that [train](super::Method::trains).
    pub trainable: Option<Arc<dyn Trainable>>,
}

impl Block {
    /// The statistics of what a linear reads.
    ///
    /// # Errors
    /// Where there are none: the method was run without calibration.
    pub fn input(&self, linear: &Linear) -> Result<&Statistics> {
        linear.input.map(|input| &self.inputs[input]).ok_or_else(|| {
            Error::unsupported(
                format!("{}: nothing is known of its inputs", linear.name),
                "this method needs calibration text: name some with --data",
            )
        })
    }
}

/// A block whose outputs on the calibration set can be compared with what they were before compression, with gradients.
pub trait Trainable: Send + Sync + std::fmt::Debug {
    /// Sequences of the calibration set.
    fn samples(&self) -> usize;

    /// The mean squared error of the block's outputs, over the tokens of some samples, against the uncompressed model's,
    /// with `weight` in the place of the linears that it gives one for: a candle tensor [rows, cols] in f32.
    fn loss(
        &self,
        weight: &dyn Fn(&str) -> candle_core::Result<Option<Tensor>>,
        samples: &[usize],
    ) -> Result<Tensor>;
}

/// ‖(W − Q)·X‖ / ‖W·X‖ over the inputs X that the statistics are of; the error of the weights alone where there are none.
pub fn relative_error(w: ArrayView2<f32>, q: ArrayView2<f32>, statistics: Option<&Statistics>) -> f64 {
    let whole = output_power(w, statistics);
    if whole > 0.0 { (error_power(w, q, statistics) / whole).sqrt() } else { 0.0 }
}

/// ‖(W − Q)·X‖², as [`relative_error`] takes it.
pub fn error_power(w: ArrayView2<f32>, q: ArrayView2<f32>, statistics: Option<&Statistics>) -> f64 {
    output_power((&q - &w).view(), statistics)
}

/// ‖W·X‖² where the Gram matrix of the inputs is known, Σ w²·x² where the squares of their columns are, else ‖W‖².
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
