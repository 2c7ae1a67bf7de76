//! The verbs of a scheme: fit a grid, round values to codes, dequantize codes; and the one match from a number to its codec.

use ndarray::{Array2, ArrayView2};

use super::codec;
use super::column::Column;
use super::{Codes, Context, Grid, Number, QTensor, ScalarCodes, ScaleType, Scheme};
use super::{extremes, fp4, fp8, ggml, int, nf4};

/// Evaluates an expression with the codec of a number, compiled for each codec.
///
/// # Panics
/// For GGUF block types, whose values are not rounded one by one.
macro_rules! with_codec {
    ($number:expr, |$codec:ident| $value:expr) => {
        match $number {
            Number::Int { bits } => {
                let $codec = int::IntCodec::new(bits);
                $value
            }
            Number::Fp8(format) => {
                let $codec = fp8::Fp8Codec::new(format);
                $value
            }
            Number::Fp4 => {
                let $codec = fp4::Fp4Codec;
                $value
            }
            Number::Nf4 => {
                let $codec = nf4::Nf4Codec;
                $value
            }
            Number::Ggml(block) => panic!("{} rounds whole blocks only", block.name()),
        }
    };
}

impl Scheme {
    /// Returns the min-max grid of these rows: the parameters that cover every value. Empty for GGUF types.
    ///
    /// # Panics
    /// If the scheme needs an extent and the context has none.
    pub fn fit(&self, w: ArrayView2<f32>, context: &Context) -> Grid {
        match self.number {
            Number::Int { bits } => int::fit(self, bits, w, context),
            Number::Fp8(format) => extremes::fit_absmax(self, w, context, format.largest()),
            Number::Fp4 => fp4::fit(self, w, context),
            Number::Nf4 => extremes::fit_absmax(self, w, context, 1.0),
            Number::Ggml(_) => Grid::default(),
        }
    }

    /// Rounds rows to the nearest codes of `grid` (ties to even). GGUF types find their own scales.
    pub fn round(&self, w: ArrayView2<f32>, grid: Grid, context: &Context) -> QTensor {
        let shape = [w.nrows(), w.ncols()];
        if let Number::Ggml(block) = self.number {
            return QTensor::blocks(block, shape, ggml::quantize(block, w, context.importance));
        }
        let codes = {
            let (scales, zeros) = (grid.effective_scales(), grid.zeros(self.number));
            with_codec!(self.number, |codec| codec::round(codec, self, w, &scales, &zeros))
        };
        QTensor::scalar(*self, shape, codes, grid)
    }

    /// Returns the squared error that rounding to `grid` leaves, summed over each grid entry and weighted by the context's
    /// importance: searches for a better grid compare it. Empty for GGUF types.
    pub fn squared_errors(&self, w: ArrayView2<f32>, grid: &Grid, context: &Context) -> Vec<f32> {
        if matches!(self.number, Number::Ggml(_)) {
            return Vec::new();
        }
        let (scales, zeros) = (grid.effective_scales(), grid.zeros(self.number));
        let importance = context.importance;
        with_codec!(self.number, |codec| codec::squared_errors(codec, self, w, &scales, &zeros, importance))
    }

    /// Does [`Scheme::fit`], then [`Scheme::round`].
    pub fn quantize(&self, w: ArrayView2<f32>, context: &Context) -> QTensor {
        self.round(w, self.fit(w, context), context)
    }

    /// Rounds each value to the nearest code of its grid entry, as [`Scheme::round`] does, and back.
    ///
    /// # Panics
    /// For a GGUF block type, whose values cannot be rounded one by one.
    pub(crate) fn round_column(&self, column: Column) {
        with_codec!(self.number, |codec| column.round(codec));
    }
}

impl QTensor {
    /// Returns the same codes under scales of another type. GGUF blocks stay as they are.
    pub(crate) fn with_scales(mut self, scale: ScaleType) -> QTensor {
        if let Codes::Scalar(scalar) = &mut self.codes
            && scalar.scheme.scale != scale
        {
            scalar.grid.scales.iter_mut().for_each(|value| *value = scale.nearest(*value));
            scalar.scheme.scale = scale;
        }
        self
    }

    /// Returns the values, [rows, cols], in f32.
    pub fn values(&self) -> Array2<f32> {
        let mut values = Array2::zeros((self.rows, self.cols));
        self.dequantize(values.as_slice_mut().expect("a new array is contiguous"));
        values
    }

    /// Writes the values, row-major [rows, cols], in f32.
    ///
    /// # Panics
    /// If `out` is not rows·cols long.
    pub fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.cols, "dequantize: wrong output length");
        match &self.codes {
            Codes::Scalar(scalar) => scalar.dequantize(self.cols, out),
            Codes::Blocks { block, bytes } => ggml::dequantize(*block, bytes, out),
        }
    }
}

impl ScalarCodes {
    fn dequantize(&self, cols: usize, out: &mut [f32]) {
        let (scales, zeros) = (self.grid.effective_scales(), self.grid.zeros(self.scheme.number));
        with_codec!(self.scheme.number, |codec| codec::dequantize(codec, self, cols, &scales, &zeros, out));
    }
}
