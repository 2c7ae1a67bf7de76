//! How packed integers lie in memory: codes in panels of [`PANEL`] rows, and beside them what their groups are scaled and
//! offset with.
//!
//! A panel is a run of [`Line`]s, in order of columns. In each, row (lane) l owns bytes 4l..4l+4: four consecutive columns
//! where a code is a byte; where it is a nibble, four in the low halves and the next four in the high halves. So one
//! instruction multiplies a line by four broadcast inputs and adds up the products of each row in its own lane.

use half::{bf16, f16};

use super::lanes::Lanes;
use crate::backend::cpu::packed::PANEL;
pub(super) use crate::backend::cpu::pages::Line;

/// A number per row of a panel.
pub type PerRow<T> = [T; PANEL];

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Codes of up to 4 bits.
    Nibble,
    /// Codes of 5 to 8 bits.
    Byte,
}

impl Width {
    /// Columns of a line.
    pub const fn columns(self) -> usize {
        match self {
            Width::Nibble => 8,
            Width::Byte => 4,
        }
    }
}

/// What divides the columns of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Of the weight.
    pub count: usize,
    /// Bits of a stored code.
    pub width: Width,
    /// Columns that share a scale of the inputs: 16 or 32.
    pub step: usize,
    /// Steps that share a scale of the weight; the last group may be short.
    pub group: usize,
}

impl Columns {
    /// Steps of a row: the last is filled up with columns whose inputs are zero.
    pub fn steps(&self) -> usize {
        self.count.div_ceil(self.step)
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.steps().div_ceil(self.group)
    }

    /// Lines of a panel.
    pub fn lines(&self) -> usize {
        self.steps() * self.step / self.width.columns()
    }
}

/// A number per row and group, kept as small as it was stored.
#[derive(Debug)]
pub enum Factors {
    /// f32, for those that no half holds.
    F32(Vec<PerRow<f32>>),
    /// Bit patterns of f16.
    F16(Vec<PerRow<u16>>),
    /// Bit patterns of bfloat16.
    Bf16(Vec<PerRow<u16>>),
    /// unit·integer, which f32 holds exactly (11 and 8 bits): the k-quants.
    Scaled {
        /// Bit patterns of f16, one per 2^`shift` groups.
        units: Vec<PerRow<u16>>,
        /// See there.
        shift: u32,
        /// One per group.
        integers: Vec<PerRow<i8>>,
    },
}

impl Factors {
    /// Entry `index` (panel·groups + group) of every row.
    #[inline(always)]
    pub fn load<L: Lanes>(&self, index: usize) -> L::Floats {
        match self {
            Factors::F32(values) => L::floats(&values[index]),
            Factors::F16(bits) => L::floats_of_f16(&bits[index]),
            Factors::Bf16(bits) => L::floats_of_bf16(&bits[index]),
            Factors::Scaled { units, shift, integers } => {
                L::mul(L::floats_of_f16(&units[index >> shift]), L::floats_of_i8(&integers[index]))
            }
        }
    }

    /// The smallest form that holds these exactly.
    pub fn smallest(values: Vec<PerRow<f32>>) -> Factors {
        let halves = |bits: fn(f32) -> u16, value: fn(u16) -> f32| -> Option<Vec<PerRow<u16>>> {
            let exact = values.as_flattened().iter().all(|&v| value(bits(v)).to_bits() == v.to_bits());
            exact.then(|| values.iter().map(|row| row.map(bits)).collect())
        };
        let f16s = halves(|v| f16::from_f32(v).to_bits(), |b| f16::from_bits(b).to_f32());
        let bf16s = || halves(|v| bf16::from_f32(v).to_bits(), |b| bf16::from_bits(b).to_f32());
        f16s.map(Factors::F16).or_else(|| bf16s().map(Factors::Bf16)).unwrap_or(Factors::F32(values))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Factors::F32(values) => size_of_val(values.as_slice()),
            Factors::F16(bits) | Factors::Bf16(bits) => size_of_val(bits.as_slice()),
            Factors::Scaled { units, integers, .. } => {
                size_of_val(units.as_slice()) + size_of_val(integers.as_slice())
            }
        }
    }
}

/// What a code is relative to.
#[derive(Debug)]
pub enum Offset {
    /// w = scale·(code − zero).
    Zero(u8),
    /// The same, with a zero per row and group.
    Zeros(Vec<PerRow<u8>>),
    /// w = scale·code − minimum.
    Minimums(Factors),
}

impl Offset {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Offset::Zero(_) => 0,
            Offset::Zeros(zeros) => size_of_val(zeros.as_slice()),
            Offset::Minimums(minimums) => minimums.bytes(),
        }
    }
}

/// What the codes of some panels are scaled and offset with.
#[derive(Debug)]
pub struct Grid {
    /// [panels, groups].
    pub scales: Factors,
    /// [panels, groups].
    pub offset: Offset,
}

impl Grid {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.scales.bytes() + self.offset.bytes()
    }
}
