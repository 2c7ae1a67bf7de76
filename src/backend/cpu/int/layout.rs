//! The memory layout of packed integers: codes in panels of [`PANEL`](crate::backend::cpu::packed::PANEL) rows, and the
//! scales and offsets of their groups.
//!
//! A panel is a run of [`Line`](super::line::Line)s, in order of columns. In each line, row (lane) l has bytes
//! 4l..4l+4: four consecutive columns if a code is a byte; if it is a nibble, four in the low halves and the next four
//! in the high halves. So one instruction multiplies a line by four broadcast inputs and adds up the products of each
//! row in its own lane.

use half::{bf16, f16};

use super::lanes::IntLanes;
use super::line::PerRow;

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// Codes of up to 4 bits.
    Nibble,
    /// Codes of 5 to 8 bits.
    Byte,
}

impl Width {
    /// Returns the columns per line.
    pub(crate) const fn columns(self) -> usize {
        match self {
            Width::Nibble => 8,
            Width::Byte => 4,
        }
    }
}

/// The division of a weight's columns into steps and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnLayout {
    /// Columns of the weight.
    pub count: usize,
    /// Bits of a stored code.
    pub width: Width,
    /// Columns that share a scale of the inputs: 16 or 32.
    pub step: usize,
    /// Steps that share a scale of the weight; the last group may be short.
    pub group: usize,
}

impl ColumnLayout {
    /// Returns the steps per row; the last step is filled up with columns whose inputs are zero.
    pub(crate) fn steps(&self) -> usize {
        self.count.div_ceil(self.step)
    }

    /// Returns the groups per row.
    pub(crate) fn groups(&self) -> usize {
        self.steps().div_ceil(self.group)
    }

    /// Returns the lines per panel.
    pub(crate) fn lines(&self) -> usize {
        self.steps() * self.step / self.width.columns()
    }
}

/// A number per row and group, in the smallest exact form.
#[derive(Debug)]
pub(crate) enum Factors {
    /// Values in f32, if no 16-bit type represents them exactly.
    F32(Vec<PerRow<f32>>),
    /// Bit patterns of f16.
    F16(Vec<PerRow<u16>>),
    /// Bit patterns of bfloat16.
    Bf16(Vec<PerRow<u16>>),
    /// Products unit·integer, which are exact in f32 (11 and 8 bits): the k-quants.
    Scaled {
        /// Bit patterns of f16, one per 2^`shift` groups.
        units: Vec<PerRow<u16>>,
        /// Logarithm of the groups per unit.
        shift: u32,
        /// Integers, one per group.
        integers: Vec<PerRow<i8>>,
    },
}

impl Factors {
    /// Loads entry `index` (panel·groups + group) of every row.
    #[inline(always)]
    pub(crate) fn load<L: IntLanes>(&self, index: usize) -> L::Floats {
        match self {
            Factors::F32(values) => L::floats(&values[index]),
            Factors::F16(bits) => L::floats_of_f16(&bits[index]),
            Factors::Bf16(bits) => L::floats_of_bf16(&bits[index]),
            Factors::Scaled { units, shift, integers } => {
                L::mul(L::floats_of_f16(&units[index >> shift]), L::floats_of_i8(&integers[index]))
            }
        }
    }

    /// Returns the smallest form that represents these values exactly.
    pub(crate) fn smallest(values: Vec<PerRow<f32>>) -> Factors {
        let halves = |bits: fn(f32) -> u16, value: fn(u16) -> f32| -> Option<Vec<PerRow<u16>>> {
            let exact = values.as_flattened().iter().all(|&v| value(bits(v)).to_bits() == v.to_bits());
            exact.then(|| values.iter().map(|row| row.map(bits)).collect())
        };
        let f16s = halves(|v| f16::from_f32(v).to_bits(), |b| f16::from_bits(b).to_f32());
        let bf16s = || halves(|v| bf16::from_f32(v).to_bits(), |b| bf16::from_bits(b).to_f32());
        f16s.map(Factors::F16).or_else(|| bf16s().map(Factors::Bf16)).unwrap_or(Factors::F32(values))
    }

    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Factors::F32(values) => size_of_val(values.as_slice()),
            Factors::F16(bits) | Factors::Bf16(bits) => size_of_val(bits.as_slice()),
            Factors::Scaled { units, integers, .. } => {
                size_of_val(units.as_slice()) + size_of_val(integers.as_slice())
            }
        }
    }
}

/// The offset of codes.
#[derive(Debug)]
pub(crate) enum Offset {
    /// One zero for all: w = scale·(code − zero).
    Zero(u8),
    /// A zero per row and group: w = scale·(code − zero).
    Zeros(Vec<PerRow<u8>>),
    /// A minimum per row and group: w = scale·code − minimum.
    Minimums(Factors),
}

impl Offset {
    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Offset::Zero(_) => 0,
            Offset::Zeros(zeros) => size_of_val(zeros.as_slice()),
            Offset::Minimums(minimums) => minimums.bytes(),
        }
    }
}

/// Scales and offsets of the codes of some panels.
#[derive(Debug)]
pub(crate) struct PanelGrid {
    /// Scales [panels, groups].
    pub scales: Factors,
    /// Offsets [panels, groups].
    pub offset: Offset,
}

impl PanelGrid {
    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.scales.bytes() + self.offset.bytes()
    }
}
