//! The current weights of a block: the results of its stages so far, and the checkpoint's values for the rest.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ndarray::s;

use crate::backend::Matrix;
use crate::engine::{CheckpointWeights, EditedMatrix};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::Weights;
use crate::numerics::Weight;
use crate::pipeline::stream::{BlockResult, clear_nonfinite};
use crate::stage;
use crate::tensor::DType;

/// A checkpoint, with the results that replace some of its weights.
pub(crate) struct Current<'a> {
    stored: CheckpointWeights,
    matrices: HashMap<String, Arc<Weight>>,
    vectors: HashMap<String, Vec<f32>>,
    result: &'a BlockResult,
    /// True if values that are not finite become 0.
    clears: bool,
}

impl<'a> Current<'a> {
    /// The checkpoint, with edits of rows as they are read. With `clears`, values that are not finite become 0 first.
    pub(crate) fn new(checkpoint: &Arc<Checkpoint>, result: &'a BlockResult, clears: bool) -> Self {
        let stored = CheckpointWeights(Arc::clone(checkpoint));
        Current { stored, matrices: HashMap::new(), vectors: HashMap::new(), result, clears }
    }

    /// Adds the current weights of a block. Dense weights that no stage has edited are read from the checkpoint, which takes
    /// less memory than their copy in f32.
    pub(crate) fn with(mut self, block: &stage::Block, rewritten: bool) -> Self {
        for linear in &block.linears {
            if rewritten || matches!(linear.weight, Weight::Quantized(_)) {
                let weight = match &linear.compensation {
                    Some(_) => Weight::Dense(linear.values()),
                    None => linear.weight.clone(),
                };
                self.matrices.insert(linear.name.clone(), Arc::new(weight));
            }
        }
        if rewritten {
            self.vectors.extend(vectors(block));
        }
        self
    }
}

/// The vectors of a block under their names in the file, as the file stores them.
pub(crate) fn vectors(block: &stage::Block) -> Vec<(String, Vec<f32>)> {
    let biases = block.linears.iter().filter_map(|linear| {
        let name = format!("{}.bias", linear.name.strip_suffix(".weight")?);
        Some((name, linear.bias.clone()?))
    });
    let norms = block.norms.iter().flat_map(|norm| {
        let less = if norm.place.plus_one { 1.0 } else { 0.0 };
        let weight = norm.weight.iter().map(|w| w - less).collect();
        let bias = norm.place.bias.clone().zip(norm.bias.clone());
        [Some((norm.place.weight.clone(), weight)), bias].into_iter().flatten()
    });
    biases.chain(norms).collect()
}

impl Weights for Current<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.stored.shape(name)
    }

    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>> {
        if let Some(weight) = self.matrices.get(name) {
            return Ok(Arc::new(InMemoryMatrix { name: name.to_owned(), weight: Arc::clone(weight) }));
        }
        let mut stored = self.stored.matrix(name)?;
        if self.clears {
            stored = Arc::new(EditedMatrix::new(stored, |_, values| {
                clear_nonfinite(values.as_slice_mut().unwrap_or_default());
                Ok(())
            }));
        }
        Ok(match self.result.edits.get(name).map(Arc::clone) {
            Some(edit) => Arc::new(EditedMatrix::new(stored, move |_, values| edit(values))),
            None => stored,
        })
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        match self.vectors.get(name) {
            Some(values) => Ok(values.clone()),
            None => {
                let mut values = self.stored.vector(name)?;
                if self.clears {
                    clear_nonfinite(&mut values);
                }
                Ok(values)
            }
        }
    }
}

/// A matrix in memory.
struct InMemoryMatrix {
    name: String,
    weight: Arc<Weight>,
}

impl Matrix for InMemoryMatrix {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> [usize; 2] {
        match self.weight.as_ref() {
            Weight::Dense(values) => [values.nrows(), values.ncols()],
            Weight::Quantized(q) => [q.rows, q.cols],
        }
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(match self.weight.as_ref() {
            Weight::Dense(values) => Weight::Dense(values.slice(s![rows, ..]).to_owned()),
            Weight::Quantized(q) => Weight::Quantized(q.rows(rows)),
        })
    }

    fn release(&self) {}
}
