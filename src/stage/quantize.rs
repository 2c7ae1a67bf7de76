//! Quantizing stages: codes in the place of dense weights.

use std::fmt::Debug;

use ndarray::Array2;

use super::block::{Block, BlockLinear};
use super::edits::Edits;
use super::scope::Scope;
use crate::error::{Error, Result};
use crate::numerics::{QTensor, Scheme, Weight};
use crate::statistics::Needs;

/// A method that replaces weights by codes.
pub trait Quantize: Send + Sync + Debug {
    /// The statistics of the inputs that it cannot work without.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// The part of a block that it is given at a time.
    fn scope(&self) -> Scope {
        Scope::Rows
    }

    /// Returns true if it needs [`Block::trainable`].
    fn trains(&self) -> bool {
        false
    }

    /// Returns true if [`BlockLinear::importance`] changes the codes of a scheme.
    fn weighs_columns(&self, _scheme: &Scheme) -> bool {
        false
    }

    /// Returns true if the columns of a group need not be adjacent, so that codes need a `g_idx`.
    fn reorders_groups(&self) -> bool {
        false
    }

    /// Returns codes for the linears that have a scheme.
    fn quantize(&self, block: &Block) -> Result<Quantization>;
}

/// The result of a quantizing stage.
#[derive(Debug, Clone, Default)]
pub struct Quantization {
    /// The codes of each linear; `None` for a linear without a scheme.
    pub codes: Vec<Option<QuantizedLinear>>,
    /// Edits that the codes rely on, such as scales moved into norms.
    pub edits: Edits,
}

/// The codes of one linear.
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    /// Codes and grid.
    pub values: QTensor,
    /// ‖(W − Q)·X‖ / ‖W·X‖ on the calibration set, if the method has measured it.
    pub relative_error: Option<f64>,
}

impl Quantization {
    /// Quantizes each linear that has a scheme by itself.
    ///
    /// # Errors
    /// The errors of `quantize`.
    pub(crate) fn of_each(
        block: &Block,
        mut quantize: impl FnMut(&BlockLinear, Scheme) -> Result<QTensor>,
    ) -> Result<Quantization> {
        let mut of = |linear: &BlockLinear| {
            let Some(scheme) = linear.scheme else { return Ok(None) };
            Ok(Some(QuantizedLinear { values: quantize(linear, scheme)?, relative_error: None }))
        };
        let codes = block.linears.iter().map(&mut of).collect::<Result<_>>()?;
        Ok(Quantization { codes, edits: Edits::default() })
    }
}

/// Quantizes one linear, or a range of its rows, by itself.
///
/// # Errors
/// The errors of the method; a linear without a scheme.
pub fn quantize_linear(method: &dyn Quantize, linear: BlockLinear) -> Result<QTensor> {
    let name = linear.name.clone();
    let block = Block { linears: vec![linear], ..Block::default() };
    let codes = method.quantize(&block)?.codes.into_iter().flatten().next();
    codes.map(|codes| codes.values).ok_or_else(|| {
        Error::unsupported(format!("{name}: it has no scheme to quantize it to"), "leave it dense: --exclude")
    })
}

impl Block {
    /// Applies the result of a quantizing stage. Returns the dense weight of each linear that now has codes.
    pub(crate) fn encode(&mut self, Quantization { codes, edits }: Quantization) -> Vec<Option<Array2<f32>>> {
        self.edit(edits);
        let encode = |(linear, codes): (&mut BlockLinear, Option<QuantizedLinear>)| {
            let QuantizedLinear { values, relative_error } = codes?;
            linear.relative_error = relative_error;
            match std::mem::replace(&mut linear.weight, Weight::Quantized(values)) {
                Weight::Dense(values) => Some(values),
                Weight::Quantized(_) => None,
            }
        };
        self.linears.iter_mut().zip(codes).map(encode).collect()
    }
}
