//! The two widths of codes and the two types of activations that there are kernels for.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::numerics::ScaleType;

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bits {
    /// 4: two codes a byte.
    W4,
    /// 8: a byte each.
    W8,
}

impl Bits {
    /// 4 or 8.
    pub const fn count(self) -> u8 {
        match self {
            Bits::W4 => 4,
            Bits::W8 => 8,
        }
    }

    /// How many codes there are.
    pub const fn levels(self) -> usize {
        1 << self.count()
    }

    /// Bytes of a tile of 64 rows × 16 columns.
    pub const fn tile_bytes(self) -> usize {
        64 * 16 * self.count() as usize / 8
    }
}

impl fmt::Display for Bits {
    /// As kernels are named: `w4`, `w8`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "w{}", self.count())
    }
}

/// The type of activations, and of the scales beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

impl Half {
    /// The nearest value's bits, ties to even.
    pub fn encode(self, value: f32) -> u16 {
        match self {
            Half::F16 => f16::from_f32(value).to_bits(),
            Half::BF16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// The value of some bits.
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Half::F16 => f16::from_bits(bits).to_f32(),
            Half::BF16 => bf16::from_bits(bits).to_f32(),
        }
    }

    /// The type as one of scales.
    pub const fn scale_type(self) -> ScaleType {
        match self {
            Half::F16 => ScaleType::F16,
            Half::BF16 => ScaleType::BF16,
        }
    }
}

impl fmt::Display for Half {
    /// As kernels are named: `f16`, `bf16`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Half::F16 => "f16",
            Half::BF16 => "bf16",
        })
    }
}
