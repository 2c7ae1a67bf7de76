//! Edits of a block: new values for dense weights, biases and norms, kept beside the block until all of them are known.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};

use super::block::{Block, Norm};
use crate::error::Result;
use crate::numerics::Weight;

/// New values for parts of a block, by the numbers of its linears and norms. Other parts keep their values.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// Weights, [rows, cols].
    pub weights: BTreeMap<usize, Array2<f32>>,
    /// Biases, \[rows\].
    pub biases: BTreeMap<usize, Vec<f32>>,
    /// Norms.
    pub norms: BTreeMap<usize, Norm>,
}

impl Edits {
    /// Returns true if every part keeps its values.
    pub(crate) fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.biases.is_empty() && self.norms.is_empty()
    }
}

/// Collects the edits of a block. Reads return the edited values; a part is copied when it is first written.
#[derive(Debug)]
pub struct Editor<'a> {
    block: &'a Block,
    edits: Edits,
}

impl<'a> Editor<'a> {
    /// Starts without any edit.
    pub fn new(block: &'a Block) -> Editor<'a> {
        Editor { block, edits: Edits::default() }
    }

    /// The block before the edits.
    pub(crate) fn block(&self) -> &'a Block {
        self.block
    }

    /// The values of a linear's weight, [rows, cols].
    ///
    /// # Errors
    /// A weight that is already quantized.
    pub(crate) fn weight(&self, linear: usize) -> Result<ArrayView2<'_, f32>> {
        match self.edits.weights.get(&linear) {
            Some(values) => Ok(values.view()),
            None => self.block.linears[linear].dense(),
        }
    }

    /// The values of a linear's weight, to be changed.
    ///
    /// # Errors
    /// A weight that is already quantized.
    pub(crate) fn weight_mut(&mut self, linear: usize) -> Result<&mut Array2<f32>> {
        let values = self.block.linears[linear].dense()?;
        Ok(self.edits.weights.entry(linear).or_insert_with(|| values.to_owned()))
    }

    /// A linear's bias, to be changed; `None` if it has none.
    pub(crate) fn bias_mut(&mut self, linear: usize) -> Option<&mut Vec<f32>> {
        let bias = self.block.linears[linear].bias.as_ref()?;
        Some(self.edits.biases.entry(linear).or_insert_with(|| bias.clone()))
    }

    /// A norm, to be changed.
    pub(crate) fn norm_mut(&mut self, norm: usize) -> &mut Norm {
        self.edits.norms.entry(norm).or_insert_with(|| self.block.norms[norm].clone())
    }

    /// All edits.
    pub fn finish(self) -> Edits {
        self.edits
    }
}

impl Block {
    /// Applies edits. Statistics are dropped, because they are of the block before the edits.
    pub fn edit(&mut self, edits: Edits) {
        if edits.is_empty() {
            return;
        }
        for (linear, values) in edits.weights {
            self.linears[linear].weight = Weight::Dense(values);
        }
        for (linear, bias) in edits.biases {
            self.linears[linear].bias = Some(bias);
        }
        for (norm, edited) in edits.norms {
            self.norms[norm] = edited;
        }
        self.forget_inputs();
        self.linears.iter_mut().for_each(|linear| linear.importance = None);
    }
}
