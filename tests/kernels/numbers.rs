//! Random numbers, and the two 16-bit floats as a run-time choice.

use half::{bf16, f16};

/// The type of activations, scales and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F16,
    BF16,
}

impl Float {
    pub const ALL: [Float; 2] = [Float::F16, Float::BF16];

    /// As kernels are named.
    pub fn name(self) -> &'static str {
        match self {
            Float::F16 => "f16",
            Float::BF16 => "bf16",
        }
    }

    /// The bits of the nearest value.
    pub fn bits(self, value: f64) -> u16 {
        match self {
            Float::F16 => f16::from_f64(value).to_bits(),
            Float::BF16 => bf16::from_f64(value).to_bits(),
        }
    }

    pub fn value(self, bits: u16) -> f64 {
        match self {
            Float::F16 => f16::from_bits(bits).to_f64(),
            Float::BF16 => bf16::from_bits(bits).to_f64(),
        }
    }

    /// The nearest value.
    pub fn round(self, value: f64) -> f64 {
        self.value(self.bits(value))
    }

    /// The largest relative error of rounding.
    pub fn epsilon(self) -> f64 {
        match self {
            Float::F16 => 2f64.powi(-11),
            Float::BF16 => 2f64.powi(-8),
        }
    }

    pub fn bytes(self, values: &[f64]) -> Vec<u8> {
        values.iter().flat_map(|&value| self.bits(value).to_le_bytes()).collect()
    }

    pub fn values(self, bytes: &[u8]) -> Vec<f64> {
        bytes.chunks_exact(2).map(|b| self.value(u16::from_le_bytes([b[0], b[1]]))).collect()
    }
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// In −1…1.
    pub fn signed(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 52) as f64 - 1.0
    }
}
