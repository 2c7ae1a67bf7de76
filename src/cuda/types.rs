//! The two widths of codes and the two types of activations that have kernels.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::numerics::ScaleType;

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bits {
    /// 4 bits: two codes per byte.
    W4,
    /// 8 bits: one code per byte.
    W8,
}

impl Bits {
    /// Returns 4 or 8.
    pub(crate) const fn count(self) -> u8 {
        match self {
            Bits::W4 => 4,
            Bits::W8 => 8,
        }
    }

    /// Returns the number of different codes.
    pub(crate) const fn levels(self) -> usize {
        1 << self.count()
    }

    /// Returns the bytes of a tile of 64 rows × 16 columns.
    pub(crate) const fn tile_bytes(self) -> usize {
        64 * 16 * self.count() as usize / 8
    }
}

impl fmt::Display for Bits {
    /// Writes `w4` or `w8`, as in names of kernels.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "w{}", self.count())
    }
}

/// The type of activations and of scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// IEEE half precision.
    F16,
    /// The type bfloat16.
    BF16,
}

impl Half {
    /// Returns the bits of the nearest value, ties to even.
    pub fn encode(self, value: f32) -> u16 {
        match self {
            Half::F16 => f16::from_f32(value).to_bits(),
            Half::BF16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// Returns the value of these bits.
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Half::F16 => f16::from_bits(bits).to_f32(),
            Half::BF16 => bf16::from_bits(bits).to_f32(),
        }
    }

    /// Returns the same type as a type of scales.
    pub const fn scale_type(self) -> ScaleType {
        match self {
            Half::F16 => ScaleType::F16,
            Half::BF16 => ScaleType::BF16,
        }
    }
}

impl fmt::Display for Half {
    /// Writes `f16` or `bf16`, as in names of kernels.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Half::F16 => "f16",
            Half::BF16 => "bf16",
        })
    }
}
