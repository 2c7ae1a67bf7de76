//! Multiplication of any weight that can unpack its panels to f32, with exact inputs: a pair of panels is unpacked once
//! and multiplied with all rows while it is in the cache.

use std::cell::RefCell;
use std::ops::Range;

use super::super::level::Level;
use super::super::packed::{InputForm, Inputs, PANEL, PackedWeight, UnpackPanels};
use super::super::pages::Line;
use super::formats::Singles;
use super::run::PanelRun;

/// A weight that is unpacked to f32 and takes f32 inputs.
pub(in super::super) struct UnpackedWeight {
    weight: Box<dyn UnpackPanels>,
    level: Level,
}

impl UnpackedWeight {
    pub(crate) fn new(weight: Box<dyn UnpackPanels>, level: Level) -> Self {
        UnpackedWeight { weight, level }
    }
}

/// Panels unpacked at once: as many as a tile multiplies.
const PANELS: usize = 2;

thread_local! {
    static UNPACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl PackedWeight for UnpackedWeight {
    fn shape(&self) -> [usize; 2] {
        self.weight.shape()
    }

    fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    fn form(&self) -> InputForm {
        InputForm::F32
    }

    fn multiply(&self, x: &Inputs, rows: Range<usize>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let [all, cols] = self.shape();
        let panel_len = cols * PANEL;
        UNPACKED.with_borrow_mut(|buffer| {
            buffer.resize(PANELS * panel_len + PANEL, 0.0);
            let aligned = align(buffer, PANELS * panel_len);
            for first in panels.clone().step_by(PANELS) {
                let last = panels.end.min(first + PANELS);
                for (panel, out) in (first..last).zip(aligned.chunks_exact_mut(panel_len)) {
                    self.weight.unpack(panel, out);
                }
                let run = PanelRun {
                    weights: &lines(aligned)[..(last - first) * cols],
                    lines: cols,
                    width: all.min(last * PANEL) - first * PANEL,
                    level: self.level,
                };
                let out = &mut out[(first - panels.start) * PANEL..];
                run.multiply::<Singles>(&x.values, x.stride, rows.clone(), out, stride);
            }
        });
    }
}

/// Returns `len` values of a buffer, aligned to a cache line.
fn align(buffer: &mut [f32], len: usize) -> &mut [f32] {
    let skip = buffer.as_ptr().align_offset(size_of::<Line>()).min(buffer.len() - len);
    &mut buffer[skip..skip + len]
}

/// Returns values as the lines that kernels read.
fn lines(values: &[f32]) -> &[Line] {
    let count = values.len() / PANEL;
    // SAFETY: every f32 is four initialized bytes, bytes need no alignment, and the lines end within the values.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), count) }
}
