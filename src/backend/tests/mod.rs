//! The contract of backends: [`conformance`] compares each operation with [`reference::Reference`] over awkward shapes
//! (one row, none, odd widths, ragged spans, groups that do not divide), so that a new backend is tested by one call.
//!
//! A case is data that runs on any backend; its values are small multiples of 1/32, which f16 and bf16 hold exactly.
#![allow(clippy::unwrap_used)]

mod attention;
mod experts;
mod goldens;
pub(crate) mod layers;
pub(crate) mod reference;

pub(crate) use layers::rotations;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, s};

use super::{Backend, Matrix};
use crate::error::Result;
use crate::numerics::random::SplitMix64;
use crate::numerics::{Scheme, Weight};
use crate::tensor::DType;
use reference::Reference;

/// Bounds of the error: |found − expected| ≤ tolerance·(1 + |expected|).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// Of linear layers with dense weights, and of what follows from them.
    pub dense: f32,
    /// Of linear layers with quantized weights, whose inputs a backend may round.
    pub quantized: f32,
    /// Of all other operations.
    pub other: f32,
}

/// Checks every operation.
pub(crate) fn conformance<B: Backend>(backend: &B, tolerance: Tolerance) {
    layers::conformance(backend, tolerance);
    attention::conformance(backend, tolerance.other);
    experts::conformance(backend, tolerance.other);
}

/// Something to compute, and what of it to compare.
trait Case: Debug {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>>;
}

/// Compares a case with the reference.
fn check<B: Backend>(backend: &B, case: &impl Case, tolerance: f32) {
    check_equal(backend, case, case, tolerance);
}

/// Compares a case with what the reference computes for another, that should give the same.
fn check_equal<B: Backend>(backend: &B, case: &impl Case, same: &impl Case, tolerance: f32) {
    let found = case.run(backend).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    let expected = same.run(&Reference).unwrap();
    assert_eq!(found.len(), expected.len(), "{case:?}: number of results");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{case:?}: size of result {i}");
        for (j, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let near = (found - expected).abs() <= tolerance * (1.0 + expected.abs());
            assert!(near, "{case:?}: result {i}, element {j}: found {found}, expected {expected}");
        }
    }
}

/// The values of a tensor.
fn shown<B: Backend>(backend: &B, x: &B::Tensor) -> Result<Vec<f32>> {
    backend.read(x, <[f32]>::to_vec)
}

/// Multiples of 1/32 within ±2.
pub(crate) fn values(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut random = SplitMix64(seed);
    Array2::from_shape_simple_fn((rows, cols), || (random.next() % 128) as f32 / 32.0 - 2.0)
}

/// Activations with these values: the rows of a table, as no backend takes them from the host otherwise.
fn tensor<B: Backend>(backend: &B, values: &Array2<f32>) -> Result<B::Tensor> {
    let ids: Vec<u32> = (0..values.nrows() as u32).collect();
    let mut rows = values.clone();
    if rows.is_empty() {
        rows = Array2::zeros((1, values.ncols()));
    }
    backend.embed(&backend.load_table(dense(rows))?, &ids)
}

/// Activations of the values that `values` gives.
fn random<B: Backend>(backend: &B, rows: usize, cols: usize, seed: u64) -> Result<B::Tensor> {
    tensor(backend, &values(rows, cols, seed))
}

/// A matrix in memory, dense or quantized when it is read.
struct Stored {
    values: Array2<f32>,
    dtype: DType,
    scheme: Option<Scheme>,
}

/// A dense matrix.
pub(crate) fn dense(values: Array2<f32>) -> Arc<dyn Matrix> {
    Arc::new(Stored { values, dtype: DType::F32, scheme: None })
}

/// A matrix of codes.
#[cfg(feature = "candle-cuda")]
pub(crate) fn quantized(values: Array2<f32>, scheme: Scheme) -> Arc<dyn Matrix> {
    Arc::new(Stored { values, dtype: DType::F16, scheme: Some(scheme) })
}

impl Matrix for Stored {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        [self.values.nrows(), self.values.ncols()]
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        let rows = self.values.slice(s![rows, ..]);
        Ok(match &self.scheme {
            Some(scheme) => Weight::Quantized(scheme.quantize(rows, &Default::default())),
            None => Weight::Dense(rows.to_owned()),
        })
    }

    fn release(&self) {}
}
