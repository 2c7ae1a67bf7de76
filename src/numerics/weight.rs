//! The weight of a linear layer, and the low-rank factors that correct its error.

use ndarray::{Array2, CowArray, Ix2};

use super::{QTensor, convert, linalg};
use crate::tensor::DType;

/// A matrix of low rank, as the product of two factors.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// [rows, rank].
    pub b: Array2<f32>,
    /// [rank, cols].
    pub a: Array2<f32>,
}

impl LowRank {
    /// Returns the matrix, [rows, cols].
    pub(crate) fn values(&self) -> Array2<f32> {
        linalg::product(self.b.view(), self.a.view())
    }

    /// Returns the same with factors that a type can hold.
    pub(crate) fn rounded(mut self, dtype: DType) -> LowRank {
        for factor in [&mut self.b, &mut self.a] {
            let mut bytes = Vec::new();
            let values = factor.as_slice_mut().expect("an owned array is contiguous");
            convert::from_f32(dtype, values, &mut bytes);
            convert::to_f32(dtype, &bytes, values);
        }
        self
    }
}

/// The weight of a linear layer, or a range of its rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// Values, [rows, cols].
    Dense(Array2<f32>),
    /// Codes and their grid.
    Quantized(QTensor),
}

impl Weight {
    /// Returns the values, [rows, cols]; codes are dequantized.
    pub(crate) fn values(&self) -> CowArray<'_, f32, Ix2> {
        match self {
            Weight::Dense(values) => values.into(),
            Weight::Quantized(q) => q.values().into(),
        }
    }

    /// Returns the values, [rows, cols]; codes are dequantized.
    pub(crate) fn into_values(self) -> Array2<f32> {
        match self {
            Weight::Dense(values) => values,
            Weight::Quantized(q) => q.values(),
        }
    }
}
