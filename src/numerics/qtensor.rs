//! The quantized tensor and its grid.

use std::ops::Range;

use ndarray::Array2;

use super::{Granularity, Number, ScaleType, Scheme, fp4, fp8, ggml, int, nf4};

/// The parameters that a scheme rounds with: one scale (and zero point) per tensor, channel, group or block.
///
/// Index of the entry for element (row, col): [`Scheme::grid_index`]. Values are exactly representable in the scheme's
/// scale type, so that what is stored is what was rounded with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// One per grid entry, row-major.
    pub scales: Vec<f32>,
    /// One per grid entry, in the domain of the codes (unsigned); empty where the scheme is symmetric.
    pub zero_points: Vec<u8>,
    /// NVFP4's per-tensor divisor; `None` elsewhere.
    pub global_scale: Option<f32>,
}

/// Quantized rows: logical codes, their grid and the scheme that says what they mean. May hold a range of a tensor's rows.
///
/// One byte per code, row-major [rows, cols], whatever the number of bits. Integers are unsigned with an offset of
/// 2^(bits−1): w = (code − zero_point)·scale, the zero point being 2^(bits−1) where the scheme is symmetric. Floats and
/// table formats hold their bit pattern. GGUF block types hold the blocks' bytes themselves and an empty grid.
#[derive(Debug, Clone, PartialEq)]
pub struct QTensor {
    /// What the codes mean.
    pub scheme: Scheme,
    /// Rows held.
    pub rows: usize,
    /// Columns of the tensor.
    pub cols: usize,
    /// See above.
    pub codes: Vec<u8>,
    /// Scales and zero points.
    pub grid: Grid,
    /// Column → group, where columns are not grouped in order (GPTQ's act-order).
    pub g_idx: Option<Vec<u32>>,
}

impl QTensor {
    /// The values, [rows, cols], in f32.
    pub fn values(&self) -> Array2<f32> {
        let mut values = Array2::zeros((self.rows, self.cols));
        self.dequantize(values.as_slice_mut().expect("a new array is contiguous"));
        values
    }

    /// Writes the values, row-major [rows, cols], in f32.
    ///
    /// # Panics
    /// Where `out` is not rows·cols long.
    pub fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "dequantize: wrong output length");
        match self.scheme.number {
            Number::Int { .. } => int::dequantize(self, out),
            Number::Fp8(_) => fp8::dequantize(self, out),
            Number::Fp4 => fp4::dequantize(self, out),
            Number::Nf4 => nf4::dequantize(self, out),
            Number::Ggml(block) => ggml::dequantize(block, &self.codes, out),
        }
    }

    /// Some of its rows; a range that begins at a multiple of [`Scheme::row_multiple`].
    pub fn rows(&self, range: Range<usize>) -> QTensor {
        let bytes = self.codes.len() / self.rows.max(1);
        let entries = self.grid_rows(&range);
        let of = |values: Range<usize>, len: usize| values.start.min(len)..values.end.min(len);
        let (scales, zeros) = (&self.grid.scales, &self.grid.zero_points);
        QTensor {
            rows: range.len(),
            codes: self.codes[range.start * bytes..range.end * bytes].to_vec(),
            grid: Grid {
                scales: scales[of(entries.clone(), scales.len())].to_vec(),
                zero_points: zeros[of(entries, zeros.len())].to_vec(),
                global_scale: self.grid.global_scale,
            },
            g_idx: self.g_idx.clone(),
            ..*self
        }
    }

    /// The same codes under scales of another type.
    pub fn with_scales(mut self, scale: ScaleType) -> QTensor {
        if self.scheme.scale != scale {
            self.grid.scales.iter_mut().for_each(|value| *value = scale.nearest(*value));
            self.scheme.scale = scale;
        }
        self
    }

    /// The grid entries of some rows.
    fn grid_rows(&self, range: &Range<usize>) -> Range<usize> {
        match self.scheme.granularity {
            Granularity::Tensor => 0..1,
            Granularity::Block(height, _) => {
                let [_, per_row] = self.scheme.grid_shape(height, self.cols);
                range.start / height * per_row..range.end.div_ceil(height) * per_row
            }
            Granularity::Channel | Granularity::Group(_) => {
                let [_, per_row] = self.scheme.grid_shape(1, self.cols);
                range.start * per_row..range.end * per_row
            }
        }
    }

    /// Tensors of one scheme and as many columns, one below the other. One scale for all is that of the first.
    ///
    /// # Panics
    /// Of no tensor at all.
    pub fn stack(tensors: Vec<QTensor>) -> QTensor {
        let mut tensors = tensors.into_iter();
        let mut all = tensors.next().expect("at least one tensor is stacked");
        for tensor in tensors {
            all.rows += tensor.rows;
            all.codes.extend(tensor.codes);
            if all.scheme.granularity != Granularity::Tensor {
                all.grid.scales.extend(tensor.grid.scales);
                all.grid.zero_points.extend(tensor.grid.zero_points);
            }
        }
        all
    }
}
