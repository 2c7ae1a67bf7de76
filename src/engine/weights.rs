//! The tensors of a checkpoint as a decoder's weights: in their stored, packed form, read by ranges of rows.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source};
use crate::model::{self, Model, Weights};
use crate::numerics::Weight;
use crate::tensor::DType;

/// The tensors of a checkpoint. Matrices keep the checkpoint open.
#[derive(Debug, Clone)]
pub struct CheckpointWeights(pub Arc<Checkpoint>);

impl CheckpointWeights {
    /// The description of the checkpoint's model.
    ///
    /// # Errors
    /// A checkpoint without config.json, an unknown architecture.
    pub(crate) fn model(&self) -> Result<Model> {
        self.0.refuse_packed()?;
        let config = self.0.config.as_ref().ok_or_else(|| {
            let what = format!("{}: no config.json beside the weights", self.0.path.display());
            Error::unsupported(what, "give a folder that contains the model and its config.json")
        })?;
        model::configure(config).map_err(|error| error.in_checkpoint(&self.0.path))
    }
}

impl Weights for CheckpointWeights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensors.get(name).map(|source| source.shape.clone())
    }

    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>> {
        let source = self.0.source(name)?.clone();
        Ok(Arc::new(CheckpointMatrix { checkpoint: Arc::clone(&self.0), source }))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        read_values(&self.0, self.0.source(name)?)
    }
}

/// Reads all values of a tensor, row-major.
pub(super) fn read_values(checkpoint: &Checkpoint, source: &Source) -> Result<Vec<f32>> {
    let [rows, cols] = source.rows_cols();
    let mut values = Vec::new();
    if values.try_reserve_exact(rows * cols).is_err() {
        let what = format!("{}: no memory for its {rows} x {cols} values", source.name);
        return Err(Error::unsupported(what, "free some, or raise the limit (`ulimit -v`)"));
    }
    values.resize(rows * cols, 0.0);
    checkpoint.read_rows(source, 0..rows, &mut values)?;
    Ok(values)
}

/// One tensor of an open checkpoint.
struct CheckpointMatrix {
    checkpoint: Arc<Checkpoint>,
    source: Source,
}

impl Matrix for CheckpointMatrix {
    fn name(&self) -> &str {
        &self.source.name
    }

    fn shape(&self) -> [usize; 2] {
        self.source.rows_cols()
    }

    fn dtype(&self) -> DType {
        self.source.dense_dtype().unwrap_or(DType::F32)
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        self.checkpoint.read_weight(&self.source, rows)
    }

    fn release(&self) {
        self.checkpoint.release(&self.source, 0..self.shape()[0]);
    }
}

/// A matrix that applies an edit to its values as it reads them, in f32.
pub struct EditedMatrix<F> {
    stored: Arc<dyn Matrix>,
    edit: F,
}

impl<F: Fn(Range<usize>, &mut Array2<f32>) -> Result<()> + Send + Sync> EditedMatrix<F> {
    /// Wraps `stored`. `edit` gets a range of rows and their values.
    pub(crate) fn new(stored: Arc<dyn Matrix>, edit: F) -> Self {
        EditedMatrix { stored, edit }
    }
}

impl<F: Fn(Range<usize>, &mut Array2<f32>) -> Result<()> + Send + Sync> Matrix for EditedMatrix<F> {
    fn name(&self) -> &str {
        self.stored.name()
    }

    fn shape(&self) -> [usize; 2] {
        self.stored.shape()
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        let mut values = self.stored.read(rows.clone())?.into_values();
        (self.edit)(rows, &mut values)?;
        Ok(Weight::Dense(values))
    }

    fn release(&self) {
        self.stored.release();
    }
}
