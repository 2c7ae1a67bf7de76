//! A decoder block as stages see it: the weights that they may change, and the statistics of its inputs.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use super::trainable::Trainable;
use crate::error::{Error, Result};
use crate::model::{Fold, NormPlace};
use crate::numerics::{Context, Extent, LowRank, Scheme, Sparsity, Weight};
use crate::statistics::Statistics;

/// A linear layer, or a range of its rows, between the stages of a recipe.
#[derive(Debug, Clone)]
pub struct BlockLinear {
    /// Name of its weight, `.weight` included.
    pub name: String,
    /// The scheme to quantize it to; `None` for a linear that stays dense and can only be rewritten.
    pub scheme: Option<Scheme>,
    /// The zeros that pruning stages make; `None` for a linear that they leave alone.
    pub sparsity: Option<Sparsity>,
    /// Extent of the whole (fused) tensor, if the scheme needs one.
    pub extent: Option<Extent>,
    /// Importance of each column, if known: the second moment of its inputs.
    pub importance: Option<Vec<f32>>,
    /// Dense at first, quantized after the quantizing stage.
    pub weight: Weight,
    /// True where the weight is zero for good, [rows, cols]; `None` before a pruning stage.
    pub mask: Option<Array2<bool>>,
    /// Added to its outputs, \[rows\].
    pub bias: Option<Vec<f32>>,
    /// Index into [`Block::inputs`], if calibration gathered statistics of its input.
    pub input: Option<usize>,
    /// True if it writes to the residual stream.
    pub writes_residual: bool,
    /// ‖(W − Q)·X‖ / ‖W·X‖ on the calibration set, if it was measured.
    pub relative_error: Option<f64>,
    /// Factors that are added to the values of the codes.
    pub compensation: Option<LowRank>,
    /// The relative error with these factors.
    pub compensated_error: Option<f64>,
}

impl BlockLinear {
    /// A linear that stays dense, without statistics.
    pub fn dense_only(name: impl Into<String>, weight: Weight) -> BlockLinear {
        BlockLinear {
            name: name.into(),
            scheme: None,
            sparsity: None,
            extent: None,
            importance: None,
            weight,
            mask: None,
            bias: None,
            input: None,
            writes_residual: false,
            relative_error: None,
            compensation: None,
            compensated_error: None,
        }
    }

    /// A linear to quantize, without statistics.
    pub fn new(name: impl Into<String>, scheme: Scheme, weight: Weight) -> BlockLinear {
        BlockLinear { scheme: Some(scheme), ..BlockLinear::dense_only(name, weight) }
    }

    /// The values to quantize, [rows, cols].
    ///
    /// # Errors
    /// A weight that is already quantized.
    pub fn dense(&self) -> Result<ArrayView2<'_, f32>> {
        match &self.weight {
            Weight::Dense(values) => Ok(values.view()),
            Weight::Quantized(_) => Err(Error::unsupported(
                format!("{}: quantized already", self.name),
                "quantize each linear in one stage of the recipe only",
            )),
        }
    }

    /// The values that it computes with, [rows, cols]: codes are dequantized and compensated.
    pub(crate) fn values(&self) -> Array2<f32> {
        let values = self.weight.values();
        match &self.compensation {
            Some(factors) => values.into_owned() + factors.values(),
            None => values.into_owned(),
        }
    }

    /// The information that a scheme may use beside the values.
    pub(crate) fn context(&self) -> Context<'_> {
        Context { extent: self.extent, importance: self.importance.as_deref() }
    }
}

/// The scale (and shift) of a norm, as it multiplies: one is added already if the file leaves it out (Gemma).
#[derive(Debug, Clone)]
pub struct Norm {
    /// Its place in the file.
    pub place: NormPlace,
    /// Multiplies the normalized values, \[width\].
    pub weight: Vec<f32>,
    /// Added to them.
    pub bias: Option<Vec<f32>>,
}

/// The input of a stage: a decoder block, the linears of a block that read the same input, or rows of one linear.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Number of the block in the model.
    pub index: usize,
    /// In the order of the forward pass. A whole block includes the linears that stay dense.
    pub linears: Vec<BlockLinear>,
    /// Norms whose outputs linears of the block read.
    pub norms: Vec<Norm>,
    /// Columns of linears that may be scaled, if the source of their inputs is scaled the other way: indices into `norms`
    /// and `linears`.
    pub folds: Vec<Fold>,
    /// Statistics of the inputs, indexed by [`BlockLinear::input`].
    pub inputs: Vec<Statistics>,
    /// The block with gradients, for methods that [train](super::Quantize::trains).
    pub trainable: Option<Arc<dyn Trainable>>,
}

impl Block {
    /// The statistics of a linear's input.
    ///
    /// # Errors
    /// A linear without statistics: there was no calibration.
    pub fn input(&self, linear: &BlockLinear) -> Result<&Statistics> {
        linear.input.map(|input| &self.inputs[input]).ok_or_else(|| {
            Error::unsupported(
                format!("{}: nothing is known of its inputs", linear.name),
                "this method needs calibration text: name some with --data",
            )
        })
    }

    /// The Hessian of a linear's input, [cols, cols].
    ///
    /// # Errors
    /// A linear without statistics; statistics without a Hessian.
    pub(crate) fn hessian(&self, linear: &BlockLinear) -> Result<Array2<f32>> {
        self.input(linear)?.hessian().ok_or_else(|| {
            Error::unsupported(
                format!("{}: the statistics of its inputs hold no Hessian", linear.name),
                "gather them again for this method, which needs the whole second moment",
            )
        })
    }

    /// Drops the statistics of the inputs.
    pub(crate) fn forget_inputs(&mut self) {
        self.inputs.clear();
        self.linears.iter_mut().for_each(|linear| linear.input = None);
    }

    /// Takes some linears out, with the statistics, as a block of their own. `linears` are their numbers, ascending.
    pub(crate) fn take(&mut self, linears: &[usize]) -> Block {
        let all = std::mem::take(&mut self.linears).into_iter().enumerate();
        let (taken, rest): (Vec<_>, Vec<_>) =
            all.partition(|(index, _)| linears.binary_search(index).is_ok());
        self.linears = rest.into_iter().map(|(_, linear)| linear).collect();
        let linears = taken.into_iter().map(|(_, linear)| linear).collect();
        let inputs = std::mem::take(&mut self.inputs);
        self.forget_inputs();
        Block { index: self.index, linears, inputs, ..Block::default() }
    }

    /// Puts linears that were taken out back to their places.
    pub(crate) fn put_back(&mut self, linears: &[usize], taken: Block) {
        for (&index, linear) in linears.iter().zip(taken.linears) {
            self.linears.insert(index, linear);
        }
    }
}
