//! [`Scheme`]: the meaning of stored numbers. Plain data; `rounding` has the arithmetic.

use std::fmt;

use serde::Serialize;

use super::ggml::formula;
use crate::tensor::BlockType;

/// The two 8-bit floats of the OCP FP8 specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fp8 {
    /// 4 exponent bits, 3 mantissa bits, no infinities, largest value 448 (`float8_e4m3fn`).
    E4M3,
    /// 5 exponent bits, 2 mantissa bits, largest value 57344.
    E5M2,
}

/// The type of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    /// Integers of 2 to 8 bits.
    Int {
        /// Bits per code.
        bits: u8,
    },
    /// 8-bit floats.
    Fp8(Fp8),
    /// E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    Fp4,
    /// The 16 quantiles of QLoRA's NormalFloat.
    Nf4,
    /// A GGUF block type, whose blocks contain their scales.
    Ggml(BlockType),
}

/// The set of elements that share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// The whole tensor.
    Tensor,
    /// A row (an output channel).
    Channel,
    /// This number of consecutive columns of a row; the last group of a row may be short.
    Group(usize),
    /// A rectangle of rows × columns; those at the edges may be short.
    Block(usize, usize),
}

/// The stored type of a scale. Scales are rounded to it before anything is rounded with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// A power of two, biased by 127 (MXFP4).
    E8M0,
    /// FP8 E4M3 under one f32 divisor per tensor (NVFP4).
    E4M3,
}

/// The meaning of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Scheme {
    /// The type of a code.
    pub number: Number,
    /// The set of elements that share a scale.
    pub granularity: Granularity,
    /// True if there are no zero points. Only integers may be asymmetric.
    pub symmetric: bool,
    /// The stored type of scales.
    pub scale: ScaleType,
}

/// The smallest and the largest value of a whole tensor, or of a fused group of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Extent {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

impl Extent {
    /// Returns the largest magnitude.
    pub(crate) fn absmax(self) -> f32 {
        self.min.abs().max(self.max.abs())
    }

    /// Returns the extent of both.
    pub(crate) fn union(self, other: Extent) -> Extent {
        Extent { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Returns the extent of some values; of none, {0, 0}. NaN is skipped: `io` has refused it before.
    pub fn of(values: &[f32]) -> Extent {
        let start = Extent { min: f32::INFINITY, max: f32::NEG_INFINITY };
        let found = values.iter().fold(start, |e, &v| Extent { min: e.min.min(v), max: e.max.max(v) });
        if found.min > found.max { Extent { min: 0.0, max: 0.0 } } else { found }
    }
}

/// Optional knowledge about the rows that a scheme rounds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The extent of the whole tensor (of the fused group): required by schemes that [need it](Scheme::needs_extent).
    pub extent: Option<Extent>,
    /// The importance of each column, \[cols\] (the diagonal of the inputs' second moment): optional weights of searches.
    pub importance: Option<&'a [f32]>,
}

impl Scheme {
    /// Returns the scheme of integers of `bits` bits.
    pub const fn int(bits: u8, granularity: Granularity, symmetric: bool, scale: ScaleType) -> Scheme {
        Scheme { number: Number::Int { bits }, granularity, symmetric, scale }
    }

    /// Returns a scheme of 8-bit floats.
    pub const fn fp8(format: Fp8, granularity: Granularity, scale: ScaleType) -> Scheme {
        Scheme { number: Number::Fp8(format), granularity, symmetric: true, scale }
    }

    /// Returns NF4 with absmax scales over groups (QLoRA's block of 64).
    pub(crate) const fn nf4(group_size: usize, scale: ScaleType) -> Scheme {
        Scheme { number: Number::Nf4, granularity: Granularity::Group(group_size), symmetric: true, scale }
    }

    /// MXFP4: E2M1 in groups of 32 under a power of two (OCP Microscaling 1.0).
    pub const MXFP4: Scheme = Scheme {
        number: Number::Fp4,
        granularity: Granularity::Group(32),
        symmetric: true,
        scale: ScaleType::E8M0,
    };

    /// NVFP4: E2M1 in groups of 16 under an E4M3 scale and one f32 divisor per tensor.
    pub const NVFP4: Scheme = Scheme {
        number: Number::Fp4,
        granularity: Granularity::Group(16),
        symmetric: true,
        scale: ScaleType::E4M3,
    };

    /// Returns the scheme of a GGUF block type.
    pub const fn ggml(block: BlockType) -> Scheme {
        Scheme {
            number: Number::Ggml(block),
            granularity: Granularity::Group(block.block_elements()),
            symmetric: true,
            scale: ScaleType::F16,
        }
    }

    /// Returns true if the extent of the whole tensor must be known before its first row is rounded.
    pub(crate) fn needs_extent(&self) -> bool {
        self.granularity == Granularity::Tensor || self.scale == ScaleType::E4M3
    }

    /// Returns true if a weight of 0 is stored as 0, whatever else is in its group.
    pub(crate) fn has_zero(&self) -> bool {
        let Number::Ggml(block) = self.number else { return true };
        let uneven = matches!(block, BlockType::IQ4_NL | BlockType::IQ4_XS);
        !(uneven || formula(block).minimums)
    }

    /// Returns the bits of one code (the blocks' average, scales included, for GGUF types).
    pub fn code_bits(&self) -> f64 {
        match self.number {
            Number::Int { bits } => f64::from(bits),
            Number::Fp8(_) => 8.0,
            Number::Fp4 | Number::Nf4 => 4.0,
            Number::Ggml(block) => 8.0 * block.block_bytes() as f64 / block.block_elements() as f64,
        }
    }

    /// Returns the shape [rows, cols] of the grid of scales of `rows` rows; [0, 0] for GGUF types.
    pub fn grid_shape(&self, rows: usize, cols: usize) -> [usize; 2] {
        match (self.number, self.granularity) {
            (Number::Ggml(_), _) => [0, 0],
            (_, Granularity::Tensor) => [1, 1],
            (_, Granularity::Channel) => [rows, 1],
            (_, Granularity::Group(group)) => [rows, cols.div_ceil(group)],
            (_, Granularity::Block(r, c)) => [rows.div_ceil(r), cols.div_ceil(c)],
        }
    }

    /// Returns the columns of a row of `cols` that share a grid entry.
    pub(crate) fn width(&self, cols: usize) -> usize {
        match self.granularity {
            Granularity::Tensor | Granularity::Channel => cols.max(1),
            Granularity::Group(width) | Granularity::Block(_, width) => width.max(1),
        }
    }

    /// Returns the grid entry of element (row, col).
    pub fn grid_index(&self, row: usize, col: usize, cols: usize) -> usize {
        match self.granularity {
            Granularity::Tensor => 0,
            Granularity::Channel => row,
            Granularity::Group(group) => row * cols.div_ceil(group) + col / group,
            Granularity::Block(r, c) => (row / r) * cols.div_ceil(c) + col / c,
        }
    }

    /// Returns the number that the first row of a range for [`Scheme::fit`] must be a multiple of.
    pub fn row_multiple(&self) -> usize {
        match self.granularity {
            Granularity::Block(rows, _) => rows,
            _ => 1,
        }
    }
}

impl fmt::Display for Scheme {
    /// Writes `int4 g128 asymmetric`, `fp8 channel`, `nvfp4`, `q4_k`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.number {
            Number::Ggml(block) => f.write_str(block.name()),
            Number::Fp4 if self.scale == ScaleType::E4M3 => f.write_str("nvfp4"),
            Number::Fp4 => f.write_str("mxfp4"),
            Number::Nf4 => write!(f, "nf4 {}", self.granularity),
            Number::Fp8(Fp8::E4M3) => write!(f, "fp8 {}", self.granularity),
            Number::Fp8(Fp8::E5M2) => write!(f, "fp8-e5m2 {}", self.granularity),
            Number::Int { bits } => {
                let symmetry = if self.symmetric { "symmetric" } else { "asymmetric" };
                write!(f, "int{bits} {} {symmetry}", self.granularity)
            }
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Channel => f.write_str("channel"),
            Granularity::Group(size) => write!(f, "g{size}"),
            Granularity::Block(rows, cols) => write!(f, "{rows}x{cols}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::numerics::presets::PRESETS;

    #[test]
    fn zeros_stay_zero_where_a_scheme_has_them() {
        // All weights but the zeros are well above 0, so that minimums and zero points are put to work.
        let w = Array2::from_shape_fn((4, 512), |(row, col)| match col % 3 {
            0 => 0.0,
            _ => 1.0 + ((row * 512 + col) as f32 * 0.37).sin() * 0.4,
        });
        let extent = Some(Extent { min: 0.0, max: 1.4 });
        for preset in PRESETS.iter().filter(|preset| preset.scheme.has_zero()) {
            let values = preset.scheme.quantize(w.view(), &Context { extent, importance: None }).values();
            let moved = w.iter().zip(&values).find(|(w, value)| **w == 0.0 && **value != 0.0);
            assert_eq!(moved, None, "{}", preset.name);
        }
        let zeroless = PRESETS.iter().filter(|preset| !preset.scheme.has_zero());
        assert_eq!(zeroless.count(), 7);
    }
}
