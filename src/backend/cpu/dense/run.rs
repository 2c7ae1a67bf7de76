//! [`PanelRun`]: the product of consecutive panels with rows of inputs.

use std::ops::Range;

use super::super::level::Level;
use super::super::pages::Line;
use super::kernel::PanelProduct;
use super::lanes::Format;

/// Consecutive panels to be multiplied.
pub(super) struct PanelRun<'a> {
    pub weights: &'a [Line],
    /// Lines per panel.
    pub lines: usize,
    /// Existing rows.
    pub width: usize,
    pub level: Level,
}

impl PanelRun<'_> {
    pub(crate) fn multiply<F: Format>(
        &self,
        inputs: &[F::Input],
        stride: usize,
        rows: Range<usize>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let product = PanelProduct {
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
