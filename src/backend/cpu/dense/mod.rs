//! Weights stored as bf16, f16 or f32, kept packed in the width they have; and every other form, multiplied in f32.
//!
//! A panel of [`PANEL`] rows is a run of 64-byte lines: one column of f32, two columns of f16 one after the other, or two of
//! bf16 interleaved by row (the pairs that `vdpbf16ps` takes; a shift and a mask make f32 of them). An odd last column is
//! paired with zeros, and rows beyond the last are zeros.

mod decoded;
mod kernel;
mod lanes;
mod pack;
mod unpacked;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use super::level::Level;
use super::packed::{Form, Inputs, PANEL, Packed};
use super::pages::{Line, Pages};
use crate::backend::Matrix;
use crate::error::Result;
use crate::tensor::DType;

pub(super) use decoded::Decoded;
use kernel::{Format, Halves, Pairs, PairsByPairs, Product, Singles};
pub(super) use unpacked::Unpacked;

/// What the lines of a panel hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// Columns per line.
    fn columns(self) -> usize {
        match self {
            Kind::F32 => 1,
            Kind::F16 | Kind::Bf16 => 2,
        }
    }
}

/// A weight stored dense.
pub(super) struct Dense {
    shape: [usize; 2],
    kind: Kind,
    form: Form,
    level: Level,
    /// Lines per panel.
    lines: usize,
    pages: Pages,
}

impl Dense {
    /// Packs a matrix of values. Its inputs are rounded to bfloat16 where `bf16` allows it, the weight is bfloat16, and the
    /// CPU multiplies that.
    ///
    /// # Errors
    /// Where reading fails, or memory is short.
    pub fn pack(matrix: &dyn Matrix, level: Level, bf16: bool) -> Result<Dense> {
        let kind = match matrix.dtype() {
            DType::BF16 | DType::F8E4M3 | DType::F8E5M2 => Kind::Bf16,
            DType::F16 => Kind::F16,
            _ => Kind::F32,
        };
        let rounded = bf16 && kind == Kind::Bf16;
        let shape = matrix.shape();
        let lines = shape[1].div_ceil(kind.columns());
        let mut pages = Pages::zeroed(shape[0].div_ceil(PANEL) * lines)?;
        pack::fill(matrix, kind, lines, pages.lines_mut())?;
        Ok(Dense { shape, kind, form: if rounded { Form::Bf16 } else { Form::F32 }, level, lines, pages })
    }
}

impl Packed for Dense {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        self.pages.bytes()
    }

    fn form(&self) -> Form {
        self.form
    }

    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let run = Run {
            weights: &self.pages.lines()[panels.start * self.lines..panels.end * self.lines],
            lines: self.lines,
            width: self.shape[0].min(panels.end * PANEL) - panels.start * PANEL,
            level: self.level,
        };
        match (self.form, self.kind) {
            (Form::Bf16, _) => run.multiply::<PairsByPairs>(&x.halves, x.stride, rows, out, stride),
            (_, Kind::Bf16) => run.multiply::<Pairs>(&x.values, x.stride, rows, out, stride),
            (_, Kind::F16) => run.multiply::<Halves>(&x.values, x.stride, rows, out, stride),
            (_, Kind::F32) => run.multiply::<Singles>(&x.values, x.stride, rows, out, stride),
        }
    }
}

/// Consecutive panels.
struct Run<'a> {
    weights: &'a [Line],
    /// Lines per panel.
    lines: usize,
    /// Rows that exist.
    width: usize,
    level: Level,
}

impl Run<'_> {
    fn multiply<F: Format>(
        &self,
        inputs: &[F::Input],
        stride: usize,
        rows: Range<usize>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let product = Product {
            inputs: &inputs[rows.start * stride..rows.end * stride],
            stride,
            rows: rows.len(),
            weights: self.weights,
            lines: self.lines,
            width: self.width,
            out,
            out_stride,
        };
        product.compute::<F>(self.level);
    }
}
