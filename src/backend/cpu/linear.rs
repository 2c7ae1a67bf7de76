//! A linear layer: parts stacked by rows, each packed for the kernel that suits its type, multiplied in one parallel
//! region.
//!
//! Threads divide the output, never the sum over columns, so that results do not depend on the number of threads. Many
//! rows are divided into runs of rows; a task multiplies its run with all panels. For few rows, the panels are divided
//! into runs, balanced by the bytes to read.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::dense::{DenseWeight, EncodedPanels, UnpackedWeight};
use super::int;
use super::level::Level;
use super::packed::{InputForm, Inputs, PANEL, PackedWeight};
use crate::backend::Matrix;
use crate::error::{Error, Result};
use crate::numerics::Weight;

/// The precision of the inputs of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// The form that is fastest for the weight: bfloat16 for bfloat16 weights if the CPU multiplies it, 8-bit integers
    /// per group for integer schemes, f32 for all others.
    #[default]
    Auto,
    /// Exact f32.
    F32,
}

/// A linear layer y = x·[p₀; p₁; …]ᵀ + bias over packed weights.
pub struct PackedLinear {
    parts: Vec<LinearPart>,
    /// The input forms of the parts, without duplicates.
    forms: Vec<InputForm>,
    bias: Option<Vec<f32>>,
    rows: usize,
    cols: usize,
    /// Panels of all parts.
    panels: usize,
    /// Bytes of all parts and the bias.
    bytes: usize,
}

struct LinearPart {
    weight: Box<dyn PackedWeight>,
    /// Index of its input form in the layer's forms.
    form: usize,
    /// Columns of the output.
    columns: Range<usize>,
    /// Its panels' numbers among those of all parts.
    panels: Range<usize>,
    bytes: usize,
}

/// Buffers that layers share, one set per caller.
#[derive(Debug, Default)]
pub struct Scratch {
    inputs: Vec<Inputs>,
    outputs: Vec<f32>,
}

/// Packs a part for the kernel that suits its type.
fn pack(matrix: &dyn Matrix, activations: Activations, level: Level) -> Result<Box<dyn PackedWeight>> {
    let [rows, cols] = matrix.shape();
    if rows * cols == 0 {
        return Err(Error::unsupported(
            format!("a linear layer has a weight of shape [{rows}, {cols}]"),
            "see `llmc inspect PATH` for the tensor: the checkpoint is damaged or not of this architecture",
        ));
    }
    match (matrix.read(0..1)?, activations) {
        (Weight::Quantized(_), _) => pack_quantized(matrix, activations, level),
        (Weight::Dense(_), Activations::Auto) => {
            Ok(Box::new(DenseWeight::pack(matrix, level, level.multiplies_bf16())?))
        }
        (Weight::Dense(_), Activations::F32) => Ok(Box::new(DenseWeight::pack(matrix, level, false)?)),
    }
}

/// Packs a quantized part: integers for their own kernels, other forms for decoding.
fn pack_quantized(
    matrix: &dyn Matrix,
    activations: Activations,
    level: Level,
) -> Result<Box<dyn PackedWeight>> {
    let integers = match activations {
        Activations::Auto => int::pack(matrix, level)?,
        Activations::F32 => {
            int::unpackable(matrix, level)?.map(|shown| Box::new(UnpackedWeight::new(shown, level)) as _)
        }
    };
    match integers {
        Some(integers) => Ok(integers),
        None => Ok(Box::new(UnpackedWeight::new(Box::new(EncodedPanels::pack(matrix)?), level))),
    }
}

impl PackedLinear {
    /// Packs parts [rowsᵢ, cols] and releases the files that they come from; the bias has one value per row of all
    /// parts.
    ///
    /// # Errors
    /// If parts or bias do not fit together, or if reading fails.
    pub fn load(
        parts: &[Arc<dyn Matrix>],
        bias: Option<Vec<f32>>,
        activations: Activations,
    ) -> Result<PackedLinear> {
        PackedLinear::load_for(parts, bias, activations, Level::detect())
    }

    fn load_for(
        parts: &[Arc<dyn Matrix>],
        bias: Option<Vec<f32>>,
        activations: Activations,
        level: Level,
    ) -> Result<PackedLinear> {
        let bytes = bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice()));
        let mut linear =
            PackedLinear { parts: vec![], forms: vec![], bias, rows: 0, cols: 0, panels: 0, bytes };
        for matrix in parts {
            linear.push(pack(matrix.as_ref(), activations, level)?)?;
            matrix.release();
        }
        let biases = linear.bias.as_ref().map_or(linear.rows, Vec::len);
        if biases != linear.rows {
            return Err(mismatch(format!("a bias of {biases} values for {} rows", linear.rows)));
        }
        Ok(linear)
    }

    fn push(&mut self, weight: Box<dyn PackedWeight>) -> Result<()> {
        let [rows, cols] = weight.shape();
        if !self.parts.is_empty() && cols != self.cols {
            return Err(mismatch(format!("{cols} columns stacked below {}", self.cols)));
        }
        let form = self.forms.iter().position(|&form| form == weight.form()).unwrap_or_else(|| {
            self.forms.push(weight.form());
            self.forms.len() - 1
        });
        let panels = self.panels..self.panels + rows.div_ceil(PANEL);
        let columns = self.rows..self.rows + rows;
        let bytes = weight.bytes();
        (self.rows, self.cols, self.panels) = (columns.end, cols, panels.end);
        self.bytes += bytes;
        self.parts.push(LinearPart { weight, form, columns, panels, bytes });
        Ok(())
    }

    /// Returns the rows of all parts: columns of the output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the columns of the weight and of the inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Multiplies `x` [rows, cols] into `out` [rows, self.rows()], on the threads of the current rayon pool.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn forward(&self, x: &[f32], rows: usize, scratch: &mut Scratch, out: &mut [f32]) {
        assert_eq!((x.len(), out.len()), (rows * self.cols, rows * self.rows), "linear: wrong lengths");
        if rows == 0 {
            return;
        }
        let Scratch { inputs, outputs } = scratch;
        inputs.resize_with(inputs.len().max(self.forms.len()), Inputs::default);
        for (inputs, &form) in inputs.iter_mut().zip(&self.forms) {
            inputs.prepare(form, x, self.cols);
        }
        let threads = self.threads(rows);
        if rows >= threads * ROWS {
            self.by_rows(inputs, rows, threads, out);
        } else if rows == 1 {
            self.by_panels(inputs, 1, 0..self.panels, threads, out);
        } else {
            outputs.resize(rows * self.rows, 0.0);
            self.by_panels(inputs, rows, 0..self.panels, threads, outputs);
            self.arrange(outputs, 0..self.panels, threads, out);
        }
    }

    /// Returns the number of threads that have enough work.
    fn threads(&self, rows: usize) -> usize {
        let bytes = self.bytes * rows.div_ceil(16);
        rayon::current_num_threads().min(bytes / BYTES + 1)
    }

    /// Multiplies in tasks of some rows and all panels.
    fn by_rows(&self, inputs: &[Inputs], rows: usize, threads: usize, out: &mut [f32]) {
        let rounds = rows.div_ceil(threads * MOST_ROWS);
        let each = rows.div_ceil(threads * rounds);
        out.par_chunks_mut(each * self.rows).enumerate().for_each(|(task, out)| {
            let rows = task * each..rows.min((task + 1) * each);
            self.multiply(inputs, rows, 0..self.panels, out);
        });
    }

    /// Multiplies in tasks of all rows and some panels; each task writes its own run of `out`, [rows, its columns].
    fn by_panels(
        &self,
        inputs: &[Inputs],
        rows: usize,
        panels: Range<usize>,
        threads: usize,
        out: &mut [f32],
    ) {
        let Some(middle) = self.cut(&panels, threads) else {
            return self.multiply(inputs, 0..rows, panels, out);
        };
        let columns = self.columns(&(panels.start..middle)).len();
        let (left, right) = out.split_at_mut(rows * columns);
        rayon::join(
            || self.by_panels(inputs, rows, panels.start..middle, threads / 2, left),
            || self.by_panels(inputs, rows, middle..panels.end, threads - threads / 2, right),
        );
    }

    /// Copies the runs of `by_panels` into rows.
    fn arrange(&self, runs: &[f32], panels: Range<usize>, threads: usize, out: &mut [f32]) {
        let columns = self.columns(&panels);
        let Some(middle) = self.cut(&panels, threads) else {
            let rows = out.chunks_exact_mut(self.rows).zip(runs.chunks_exact(columns.len()));
            return rows.for_each(|(out, run)| out[columns.clone()].copy_from_slice(run));
        };
        let (left, right) =
            runs.split_at(out.len() / self.rows * self.columns(&(panels.start..middle)).len());
        self.arrange(left, panels.start..middle, threads / 2, out);
        self.arrange(right, middle..panels.end, threads - threads / 2, out);
    }

    /// Returns the panel at which to cut, so that each half has bytes in proportion to its threads; `None` if there is
    /// nothing to cut.
    fn cut(&self, panels: &Range<usize>, threads: usize) -> Option<usize> {
        if threads < 2 || panels.len() < 2 {
            return None;
        }
        let bytes = |part: &LinearPart, count: usize| count * part.bytes / part.panels.len();
        let overlaps = || self.parts.iter().map(|part| (part, overlap(&part.panels, panels)));
        let all: usize = overlaps().map(|(part, common)| bytes(part, common.len())).sum();
        let mut wanted = all * (threads / 2) / threads;
        for (part, common) in overlaps() {
            let here = bytes(part, common.len());
            if wanted < here {
                let middle = common.start + (common.len() * wanted).div_ceil(here);
                return Some(middle.clamp(panels.start + 1, panels.end - 1));
            }
            wanted -= here;
        }
        Some(panels.end - 1)
    }

    /// Returns the columns of the output that panels compute.
    fn columns(&self, panels: &Range<usize>) -> Range<usize> {
        self.column(panels.start)..self.column(panels.end)
    }

    /// Returns the first column of a panel; for the panel after the last one, the end of the columns.
    fn column(&self, panel: usize) -> usize {
        let part = self.parts.iter().find(|part| part.panels.contains(&panel));
        part.map_or(self.rows, |part| part.columns.start + (panel - part.panels.start) * PANEL)
    }

    /// Multiplies some rows with some panels into `out`, [rows, their columns].
    fn multiply(&self, inputs: &[Inputs], rows: Range<usize>, panels: Range<usize>, out: &mut [f32]) {
        let columns = self.columns(&panels);
        for part in &self.parts {
            let common = overlap(&part.panels, &panels);
            if common.is_empty() {
                continue;
            }
            let own = common.start - part.panels.start..common.end - part.panels.start;
            let out = &mut out[self.column(common.start) - columns.start..];
            part.weight.multiply(&inputs[part.form], rows.clone(), own, out, columns.len());
        }
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(columns.len()) {
                row.iter_mut().zip(&bias[columns.clone()]).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}

/// Rows per thread from which rows are divided instead of panels.
const ROWS: usize = 24;
/// Maximum number of rows of a task: their data stays in the second-level cache.
const MOST_ROWS: usize = 96;
/// Bytes of weights that are worth another thread.
const BYTES: usize = 1 << 15;

fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

fn mismatch(what: String) -> Error {
    Error::unsupported(
        format!("a linear layer's parts do not fit together: {what}"),
        "see `llmc inspect PATH`: the config does not describe these tensors",
    )
}

#[cfg(test)]
mod tests;
