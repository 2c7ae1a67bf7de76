//! The quantized tensor: plain data, ranges of its rows, and tensors below each other.

use std::ops::Range;

use super::{Granularity, Grid, Scheme};
use crate::tensor::BlockType;

/// Quantized rows. May hold a range of a tensor's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct QTensor {
    /// Rows held.
    pub rows: usize,
    /// Columns of the tensor.
    pub cols: usize,
    /// The stored numbers.
    pub codes: Codes,
}

/// The stored numbers of a quantized tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Codes {
    /// A code per element, and a grid.
    Scalar(ScalarCodes),
    /// GGUF blocks, row after row. [`formula`](super::ggml::formula) takes a block apart, and puts codes back.
    Blocks {
        /// The type of the blocks.
        block: BlockType,
        /// [`BlockType::block_bytes`] per block.
        bytes: Vec<u8>,
    },
}

/// A code per element, and the grid that gives them their values.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalarCodes {
    /// The meaning of the codes; never a GGUF block type.
    pub scheme: Scheme,
    /// One byte per code, row-major [rows, cols], for any number of bits. Integers are unsigned with an offset of
    /// 2^(bits−1): w = (code − zero_point)·scale, the zero point being 2^(bits−1) if the scheme is symmetric. Floats and
    /// table formats hold their bit pattern.
    pub codes: Vec<u8>,
    /// Scales and zero points.
    pub grid: Grid,
    /// Column → group, if columns are not grouped in order (GPTQ's act-order).
    pub g_idx: Option<Vec<u32>>,
}

impl QTensor {
    /// Creates a tensor of scalar codes whose columns are grouped in order.
    pub fn scalar(scheme: Scheme, [rows, cols]: [usize; 2], codes: Vec<u8>, grid: Grid) -> QTensor {
        QTensor { rows, cols, codes: Codes::Scalar(ScalarCodes { scheme, codes, grid, g_idx: None }) }
    }

    /// Creates a tensor of GGUF blocks.
    pub fn blocks(block: BlockType, [rows, cols]: [usize; 2], bytes: Vec<u8>) -> QTensor {
        QTensor { rows, cols, codes: Codes::Blocks { block, bytes } }
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> Scheme {
        match &self.codes {
            Codes::Scalar(scalar) => scalar.scheme,
            Codes::Blocks { block, .. } => Scheme::ggml(*block),
        }
    }

    /// Returns the codes and the grid, for callers that have refused GGUF blocks by their scheme.
    ///
    /// # Panics
    /// For GGUF blocks.
    pub fn as_scalar(&self) -> &ScalarCodes {
        match &self.codes {
            Codes::Scalar(scalar) => scalar,
            Codes::Blocks { block, .. } => panic!("{} has no code per element", block.name()),
        }
    }

    /// Returns the group of each column, if columns are not grouped in order.
    pub(crate) fn g_idx(&self) -> Option<&[u32]> {
        match &self.codes {
            Codes::Scalar(scalar) => scalar.g_idx.as_deref(),
            Codes::Blocks { .. } => None,
        }
    }

    /// Returns some of its rows; a range that begins at a multiple of [`Scheme::row_multiple`].
    pub fn rows(&self, range: Range<usize>) -> QTensor {
        let of_rows = |bytes: &[u8]| {
            let row = bytes.len() / self.rows.max(1);
            bytes[range.start * row..range.end * row].to_vec()
        };
        let codes = match &self.codes {
            Codes::Scalar(scalar) => Codes::Scalar(ScalarCodes {
                scheme: scalar.scheme,
                codes: of_rows(&scalar.codes),
                grid: scalar.grid.entries(scalar.scheme.grid_rows(&range, self.cols)),
                g_idx: scalar.g_idx.clone(),
            }),
            Codes::Blocks { block, bytes } => Codes::Blocks { block: *block, bytes: of_rows(bytes) },
        };
        QTensor { rows: range.len(), cols: self.cols, codes }
    }

    /// Stacks tensors of one scheme and as many columns, one below the other. One scale for all is that of the first.
    ///
    /// # Panics
    /// If there are none, or their schemes differ in kind.
    pub fn stack(tensors: Vec<QTensor>) -> QTensor {
        let mut tensors = tensors.into_iter();
        let mut all = tensors.next().expect("at least one tensor is stacked");
        for tensor in tensors {
            all.rows += tensor.rows;
            match (&mut all.codes, tensor.codes) {
                (Codes::Scalar(all), Codes::Scalar(scalar)) => all.extend(scalar),
                (Codes::Blocks { bytes: all, .. }, Codes::Blocks { bytes, .. }) => all.extend(bytes),
                _ => panic!("stack: tensors of different schemes"),
            }
        }
        all
    }
}

impl ScalarCodes {
    /// Adds the rows of another tensor below. One scale for all stays.
    fn extend(&mut self, below: ScalarCodes) {
        self.codes.extend(below.codes);
        if self.scheme.granularity != Granularity::Tensor {
            self.grid.scales.extend(below.grid.scales);
            self.grid.zero_points.extend(below.grid.zero_points);
        }
    }
}

impl Grid {
    /// Returns a range of the entries.
    fn entries(&self, range: Range<usize>) -> Grid {
        let zero_points = self.zero_points.get(range.clone()).unwrap_or_default().to_vec();
        Grid { scales: self.scales[range].to_vec(), zero_points, global_scale: self.global_scale }
    }
}

impl Scheme {
    /// Returns the grid entries of some rows.
    fn grid_rows(&self, range: &Range<usize>, cols: usize) -> Range<usize> {
        if self.granularity == Granularity::Tensor {
            return 0..1;
        }
        let height = self.row_multiple();
        let [_, per_row] = self.grid_shape(height, cols);
        range.start / height * per_row..range.end.div_ceil(height) * per_row
    }
}
