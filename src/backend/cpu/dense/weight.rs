//! [`DenseWeight`]: unquantized values, packed in panels.

use std::ops::Range;

use super::super::level::Level;
use super::super::packed::{InputForm, Inputs, PANEL, PackedWeight};
use super::super::pages::Pages;
use super::element::ElementType;
use super::formats::{Halves, Pairs, PairsByPairs, Singles};
use super::pack;
use super::run::PanelRun;
use crate::backend::Matrix;
use crate::error::Result;
use crate::tensor::DType;

/// A weight of unquantized values, packed in panels.
pub(in super::super) struct DenseWeight {
    shape: [usize; 2],
    kind: ElementType,
    form: InputForm,
    level: Level,
    /// Lines per panel.
    lines: usize,
    pages: Pages,
}

impl DenseWeight {
    /// Packs a matrix of values. Its inputs are rounded to bfloat16 if `bf16` allows it and the weight is bfloat16.
    ///
    /// # Errors
    /// If reading fails, or if there is not enough memory.
    pub(crate) fn pack(matrix: &dyn Matrix, level: Level, bf16: bool) -> Result<DenseWeight> {
        let kind = match matrix.dtype() {
            DType::BF16 | DType::F8E4M3 | DType::F8E5M2 => ElementType::Bf16,
            DType::F16 => ElementType::F16,
            _ => ElementType::F32,
        };
        let rounded = bf16 && kind == ElementType::Bf16;
        let shape = matrix.shape();
        let lines = shape[1].div_ceil(kind.columns());
        let mut pages = Pages::zeroed(shape[0].div_ceil(PANEL) * lines)?;
        pack::fill(matrix, kind, lines, pages.lines_mut())?;
        Ok(DenseWeight {
            shape,
            kind,
            form: if rounded { InputForm::Bf16 } else { InputForm::F32 },
            level,
            lines,
            pages,
        })
    }
}

impl PackedWeight for DenseWeight {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> usize {
        self.pages.bytes()
    }

    fn form(&self) -> InputForm {
        self.form
    }

    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let run = PanelRun {
            weights: &self.pages.lines()[panels.start * self.lines..panels.end * self.lines],
            lines: self.lines,
            width: self.shape[0].min(panels.end * PANEL) - panels.start * PANEL,
            level: self.level,
        };
        match (self.form, self.kind) {
            (InputForm::Bf16, _) => run.multiply::<PairsByPairs>(&x.halves, x.stride, rows, out, stride),
            (_, ElementType::Bf16) => run.multiply::<Pairs>(&x.values, x.stride, rows, out, stride),
            (_, ElementType::F16) => run.multiply::<Halves>(&x.values, x.stride, rows, out, stride),
            (_, ElementType::F32) => run.multiply::<Singles>(&x.values, x.stride, rows, out, stride),
        }
    }
}
