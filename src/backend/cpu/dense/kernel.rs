//! The product of rows of inputs and panels of weights: tiles of the output whose sums stay in registers, written once
//! over [`FloatLanes`] and compiled for each [`Level`].
//!
//! A panel is a run of lines, each of 16 rows × 1 or 2 columns. A tile of R rows and P panels loads P lines and R
//! inputs for R·P products, so that the time goes into arithmetic, not into loading.
//!
//! Loops use counters, not iterator adapters. Those are not always inlined in functions with an instruction set of
//! their own; code that is not inlined uses the baseline's instructions and does not keep the sums in registers (it was
//! 30 times slower).
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::level::Level;
use super::super::packed::PANEL;
use super::super::pages::Line;
use super::lanes::{FloatLanes, FloatTile, Format};
use super::plain::PlainFloat;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2Float, Avx512Float};

/// Lines that stay in the second-level cache beside inputs: 256 KB.
const SLICE: usize = 4096;

/// The product of inputs [rows, stride] and consecutive panels.
pub(in super::super) struct PanelProduct<'a, I> {
    /// Inputs [rows, stride]; the first `lines`·[`Format::COLUMNS`] of each row are multiplied.
    pub inputs: &'a [I],
    pub stride: usize,
    pub rows: usize,
    /// Panels, one after the other.
    pub weights: &'a [Line],
    /// Lines per panel.
    pub lines: usize,
    /// Columns of the output: the existing rows of the panels.
    pub width: usize,
    /// Output [rows, out_stride]; `width` columns are written.
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl<I: Copy> PanelProduct<'_, I> {
    /// Computes the product with the kernels of a level that this CPU supports.
    pub(crate) fn compute<F: Format<Input = I>>(self, level: Level) {
        match level {
            Level::Plain => self.sweep::<PlainFloat, F>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is only created if the CPU supports it.
            Level::Avx2 => unsafe { avx2::<F>(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 { bf16: true, .. } if F::BFLOAT16_INPUTS => unsafe { avx512_bf16::<F>(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 { .. } => unsafe { avx512::<F>(self) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.sweep::<PlainFloat, F>(),
        }
    }

    /// Iterates over some panels, slices of their columns, and tiles of rows, from outside to inside: a slice stays in
    /// the second-level cache for all rows. Each sum continues from the previous slice.
    #[inline(always)]
    fn sweep<V: FloatLanes, F: Format<Input = I>>(mut self) {
        let panels = self.width.div_ceil(PANEL);
        let tiles = self.rows.div_ceil(V::most_rows(F::COLUMNS));
        let slice = if tiles > 1 { SLICE / V::PANELS } else { self.lines };
        // A single row waits for its sums: more panels at once keep the units busy.
        let step = if self.rows == 1 { V::ROW_PANELS } else { V::PANELS };
        for panel in (0..panels).step_by(step) {
            let together = panel..panels.min(panel + step);
            for line in (0..self.lines).step_by(slice) {
                let lines = line..self.lines.min(line + slice);
                for tile in 0..tiles {
                    // Tiles have nearly equal heights, so that no tile of one row is left.
                    let rows = self.rows * tile / tiles..self.rows * (tile + 1) / tiles;
                    self.tile::<V, F>(rows, together.clone(), lines.clone());
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: FloatLanes, F: Format<Input = I>>(
        &mut self,
        rows: Range<usize>,
        panels: Range<usize>,
        lines: Range<usize>,
    ) {
        let column = panels.start * PANEL;
        let mut args = FloatTile {
            inputs: &self.inputs[rows.start * self.stride + lines.start * F::COLUMNS..],
            stride: self.stride,
            weights: &self.weights[panels.start * self.lines + lines.start..],
            panel_stride: self.lines,
            lines: lines.len(),
            goes_on: lines.start > 0,
            width: (self.width - column).min(panels.len() * PANEL),
            out: &mut self.out[rows.start * self.out_stride + column..],
            out_stride: self.out_stride,
        };
        V::tile::<F>(&mut args, rows.len(), panels.len());
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<F: Format>(product: PanelProduct<F::Input>) {
    product.sweep::<Avx2Float, F>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<F: Format>(product: PanelProduct<F::Input>) {
    product.sweep::<Avx512Float<false>, F>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn avx512_bf16<F: Format>(product: PanelProduct<F::Input>) {
    product.sweep::<Avx512Float<true>, F>();
}
