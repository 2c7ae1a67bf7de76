//! Packing of quantized rows into panels: the supported schemes, and the layout of their codes, scales and offsets.
//!
//! Supports integers of 2 to 8 bits per tensor, channel or group, with or without zero points, and every GGUF block
//! type (see [`ggml::formula`]). Codes of up to 4 bits are held in 4 bits, others in 8 bits (so Q6_K takes 8.56 bits
//! per weight, Q5_K 8.63, Q2_K 5.13). Scales keep their stored form: nothing is rounded.

use super::layout::{ColumnLayout, Factors, Offset, PanelGrid, Width};
use super::line::{Line, PerRow};
use crate::backend::cpu::packed::PANEL;
use crate::numerics::ggml::{self, Parts};
use crate::numerics::{Codes, Granularity, Number, QTensor, ScalarCodes, Scheme};
use crate::tensor::BlockType;

/// Returns the division of a weight's columns. Returns `None` if the kernels do not support the scheme: numbers other
/// than integers, rectangular blocks of weights, groups that are not a multiple of 16 columns, reordered columns.
pub(crate) fn columns(q: &QTensor) -> Option<ColumnLayout> {
    let scheme = q.scheme();
    let (bits, group) = match scheme.number {
        Number::Int { bits } => (bits, group(&scheme, q.cols)?),
        Number::Ggml(block) => (ggml::formula(block).bits, ggml::formula(block).group),
        _ => return None,
    };
    let step = [32, 16].into_iter().find(|step| group % step == 0)?;
    let width = if bits <= 4 { Width::Nibble } else { Width::Byte };
    (q.g_idx().is_none()).then_some(ColumnLayout { count: q.cols, width, step, group: group / step })
}

/// Returns the columns that share a scale; if all columns of a row do, a multiple of 32.
fn group(scheme: &Scheme, cols: usize) -> Option<usize> {
    match scheme.granularity {
        Granularity::Tensor | Granularity::Channel => Some(cols.next_multiple_of(32)),
        Granularity::Group(group) if group >= cols => Some(cols.next_multiple_of(32)),
        Granularity::Group(group) => Some(group),
        Granularity::Block(..) => None,
    }
}

/// Packs rows into panels of zeroed lines.
///
/// # Panics
/// If [`columns`] returns `None`, or if there are fewer lines than the rows need.
pub(crate) fn pack(q: &QTensor, columns: &ColumnLayout, lines: &mut [Line]) -> PanelGrid {
    match &q.codes {
        Codes::Scalar(scalar) => pack_integers(q, scalar, columns, lines),
        Codes::Blocks { block, bytes } => pack_blocks(*block, bytes, columns, lines),
    }
}

fn pack_integers(q: &QTensor, scalar: &ScalarCodes, columns: &ColumnLayout, lines: &mut [Line]) -> PanelGrid {
    let ScalarCodes { scheme, codes, grid, .. } = scalar;
    let Number::Int { bits } = scheme.number else { panic!("columns() refuses {scheme:?}") };
    let width = columns.group * columns.step;
    let entries = move |row: usize| {
        (0..columns.groups()).map(move |group| scheme.grid_index(row, group * width, q.cols))
    };
    let scales: Vec<f32> = (0..q.rows).flat_map(|row| entries(row).map(|i| grid.scales[i])).collect();
    let offset = match grid.zero_points.as_slice() {
        [] => Offset::Zero(1 << (bits - 1)),
        zeros => {
            let zeros: Vec<u8> = (0..q.rows).flat_map(|row| entries(row).map(|i| zeros[i])).collect();
            Offset::Zeros(side_by_side(&zeros, columns.groups()))
        }
    };
    place_codes(codes, columns, lines);
    PanelGrid { scales: Factors::smallest(side_by_side(&scales, columns.groups())), offset }
}

/// The numbers of GGUF blocks, row after row.
#[derive(Default)]
struct BlockNumbers {
    codes: Vec<u8>,
    d: Vec<u16>,
    dmin: Vec<u16>,
    scales: Vec<i8>,
    minimums: Vec<i8>,
}

impl BlockNumbers {
    fn push(&mut self, parts: &Parts, elements: usize, groups: usize) {
        self.codes.extend_from_slice(&parts.codes[..elements]);
        self.d.push(parts.d.to_bits());
        self.dmin.push(parts.dmin.to_bits());
        self.scales.extend_from_slice(&parts.scales[..groups]);
        self.minimums.extend(parts.minimums[..groups].iter().map(|m| m.cast_signed()));
    }
}

fn pack_blocks(block: BlockType, bytes: &[u8], columns: &ColumnLayout, lines: &mut [Line]) -> PanelGrid {
    let formula = ggml::formula(block);
    let groups = block.block_elements() / formula.group;
    let mut rows = BlockNumbers::default();
    for bytes in bytes.chunks_exact(block.block_bytes()) {
        rows.push(&(formula.parts)(bytes), block.block_elements(), groups);
    }
    let factors = |units: &[u16], integers: &[i8]| {
        let units = side_by_side(units, columns.groups() / groups);
        if !formula.scaled_twice {
            return Factors::F16(units);
        }
        let integers = side_by_side(integers, columns.groups());
        Factors::Scaled { units, shift: groups.ilog2(), integers }
    };
    let offset = if formula.minimums {
        Offset::Minimums(factors(&rows.dmin, &rows.minimums))
    } else {
        Offset::Zero(formula.zero)
    };
    place_codes(&rows.codes, columns, lines);
    PanelGrid { scales: factors(&rows.d, &rows.scales), offset }
}

/// Transposes [rows, count] to [panels, count, PANEL]; rows beyond the last are zero.
fn side_by_side<T: Copy + Default>(rows: &[T], count: usize) -> Vec<PerRow<T>> {
    let mut out = Vec::with_capacity(rows.len().div_ceil(PANEL));
    for panel in rows.chunks(PANEL * count.max(1)) {
        for i in 0..count {
            let mut entry = [T::default(); PANEL];
            for (entry, row) in entry.iter_mut().zip(panel.chunks_exact(count)) {
                *entry = row[i];
            }
            out.push(entry);
        }
    }
    out
}

/// Writes codes, [rows, cols], to lines of panels; columns and rows beyond the last stay zero.
fn place_codes(codes: &[u8], columns: &ColumnLayout, lines: &mut [Line]) {
    let panels = codes.chunks(PANEL * columns.count);
    for (panel, lines) in panels.zip(lines.chunks_exact_mut(columns.lines())) {
        for (lane, row) in panel.chunks_exact(columns.count).enumerate() {
            for (line, codes) in lines.iter_mut().zip(row.chunks(columns.width.columns())) {
                place(codes, &mut line[4 * lane..][..4]);
            }
        }
    }
}

/// Writes the codes of a lane in a line: the first four to the bytes (their low halves), the next four to the high
/// halves.
#[inline]
fn place(codes: &[u8], bytes: &mut [u8]) {
    for (i, code) in codes.iter().enumerate() {
        bytes[i % 4] |= code << (4 * (i / 4));
    }
}
