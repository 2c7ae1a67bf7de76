//! The tensors of a checkpoint, as a decoder fetches them: packed as they are stored, read by ranges of rows.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source};
use crate::model::{self, Model, Weights};
use crate::numerics::Weight;
use crate::tensor::DType;

/// A checkpoint's tensors. Matrices keep it open.
#[derive(Debug, Clone)]
pub struct Stored(pub Arc<Checkpoint>);

impl Stored {
    /// Describes the checkpoint's model.
    ///
    /// # Errors
    /// A checkpoint without config.json, an architecture that llmc cannot run.
    pub fn model(&self) -> Result<Model> {
        let config = self.0.config.as_ref().ok_or_else(|| {
            let what = format!("{}: no config.json beside the weights", self.0.path.display());
            Error::unsupported(what, "name the folder that holds the model with its config.json")
        })?;
        model::configure(config)
    }
}

impl Weights for Stored {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensors.get(name).map(|source| source.shape.clone())
    }

    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>> {
        let source = self.0.source(name)?.clone();
        Ok(Arc::new(StoredMatrix { checkpoint: Arc::clone(&self.0), source }))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let source = self.0.source(name)?;
        let [rows, cols] = source.rows_cols();
        let mut values = vec![0.0; rows * cols];
        self.0.read_rows(source, 0..rows, &mut values)?;
        Ok(values)
    }
}

/// One tensor of an open checkpoint.
struct StoredMatrix {
    checkpoint: Arc<Checkpoint>,
    source: Source,
}

impl Matrix for StoredMatrix {
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

/// A matrix whose values are changed as they are read, in f32.
pub struct Edited<F> {
    stored: Arc<dyn Matrix>,
    edit: F,
}

impl<F: Fn(Range<usize>, &mut Array2<f32>) -> Result<()> + Send + Sync> Edited<F> {
    /// `edit` is given the range of rows, and their values.
    pub fn new(stored: Arc<dyn Matrix>, edit: F) -> Self {
        Edited { stored, edit }
    }
}

impl<F: Fn(Range<usize>, &mut Array2<f32>) -> Result<()> + Send + Sync> Matrix for Edited<F> {
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
