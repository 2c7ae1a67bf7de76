//! Quantized rows → panels: which schemes fit, and how their codes, scales and offsets are laid out.
//!
//! Integers of 2 to 8 bits per tensor, channel or group, with or without zero points, and every GGUF block type (see
//! [`ggml::formula`]). Codes of up to 4 bits are held in 4, others in 8 (so Q6_K is held in 8.56 bits per weight, Q5_K in
//! 8.63, Q2_K in 5.13). Scales keep the form in which they were stored: nothing is rounded.

use super::layout::{Columns, Factors, Grid, Line, Offset, PerRow, Width};
use crate::backend::cpu::packed::PANEL;
use crate::numerics::ggml::{self, Parts};
use crate::numerics::{Codes, Granularity, Number, QTensor, ScalarCodes, Scheme};
use crate::tensor::BlockType;

/// How the columns of a weight are divided; `None` where the kernels cannot take the scheme: other numbers than integers,
/// rectangles of weights, groups that are not a multiple of 16 columns, columns that are not grouped in order.
pub fn columns(q: &QTensor) -> Option<Columns> {
    let scheme = q.scheme();
    let (bits, group) = match scheme.number {
        Number::Int { bits } => (bits, group(&scheme, q.cols)?),
        Number::Ggml(block) => (ggml::formula(block).bits, ggml::formula(block).group),
        _ => return None,
    };
    let step = [32, 16].into_iter().find(|step| group % step == 0)?;
    let width = if bits <= 4 { Width::Nibble } else { Width::Byte };
    (q.g_idx().is_none()).then_some(Columns { count: q.cols, width, step, group: group / step })
}

/// Columns that share a scale: a multiple of 32 where all of a row do.
fn group(scheme: &Scheme, cols: usize) -> Option<usize> {
    match scheme.granularity {
        Granularity::Tensor | Granularity::Channel => Some(cols.next_multiple_of(32)),
        Granularity::Group(group) if group >= cols => Some(cols.next_multiple_of(32)),
        Granularity::Group(group) => Some(group),
        Granularity::Block(..) => None,
    }
}

/// Lays rows out in panels of zeroed lines.
///
/// # Panics
/// Where [`columns`] is `None`, or where there are fewer lines than the rows need.
pub fn pack(q: &QTensor, columns: &Columns, lines: &mut [Line]) -> Grid {
    match &q.codes {
        Codes::Scalar(scalar) => pack_integers(q, scalar, columns, lines),
        Codes::Blocks { block, bytes } => pack_blocks(*block, bytes, columns, lines),
    }
}

fn pack_integers(q: &QTensor, scalar: &ScalarCodes, columns: &Columns, lines: &mut [Line]) -> Grid {
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
    Grid { scales: Factors::smallest(side_by_side(&scales, columns.groups())), offset }
}

/// The numbers of blocks, row after row.
#[derive(Default)]
struct Rows {
    codes: Vec<u8>,
    d: Vec<u16>,
    dmin: Vec<u16>,
    scales: Vec<i8>,
    minimums: Vec<i8>,
}

impl Rows {
    fn push(&mut self, parts: &Parts, elements: usize, groups: usize) {
        self.codes.extend_from_slice(&parts.codes[..elements]);
        self.d.push(parts.d.to_bits());
        self.dmin.push(parts.dmin.to_bits());
        self.scales.extend_from_slice(&parts.scales[..groups]);
        self.minimums.extend(parts.minimums[..groups].iter().map(|m| m.cast_signed()));
    }
}

fn pack_blocks(block: BlockType, bytes: &[u8], columns: &Columns, lines: &mut [Line]) -> Grid {
    let formula = ggml::formula(block);
    let groups = block.block_elements() / formula.group;
    let mut rows = Rows::default();
    for bytes in bytes.chunks_exact(block.block_bytes()) {
        rows.push(&(formula.parts)(bytes), block.block_elements(), groups);
    }
    let factors = |units: &[u16], integers: &[i8]| {
        let units = side_by_side(units, columns.groups() / groups);
        match formula.scaled_twice {
            false => Factors::F16(units),
            true => Factors::Scaled {
                units,
                shift: groups.ilog2(),
                integers: side_by_side(integers, columns.groups()),
            },
        }
    };
    let offset = match formula.minimums {
        false => Offset::Zero(formula.zero),
        true => Offset::Minimums(factors(&rows.dmin, &rows.minimums)),
    };
    place_codes(&rows.codes, columns, lines);
    Grid { scales: factors(&rows.d, &rows.scales), offset }
}

/// [rows, count] → [panels, count, PANEL]; rows beyond the last are zero.
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

/// Codes, [rows, cols] → lines of panels; columns and rows beyond the last stay zero.
fn place_codes(codes: &[u8], columns: &Columns, lines: &mut [Line]) {
    let panels = codes.chunks(PANEL * columns.count);
    for (panel, lines) in panels.zip(lines.chunks_exact_mut(columns.lines())) {
        for (lane, row) in panel.chunks_exact(columns.count).enumerate() {
            for (line, codes) in lines.iter_mut().zip(row.chunks(columns.width.columns())) {
                place(codes, &mut line[4 * lane..][..4]);
            }
        }
    }
}

/// The codes of a lane in a line: the first four in the bytes (their low halves), the next four in the high halves.
#[inline]
fn place(codes: &[u8], bytes: &mut [u8]) {
    for (i, code) in codes.iter().enumerate() {
        bytes[i % 4] |= code << (4 * (i / 4));
    }
}
