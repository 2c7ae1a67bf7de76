//! Eight-bit numbers under one scale for a whole tensor, measured before the model runs: inputs of linears, and the keys and
//! values that attention caches. Symmetric: zero is zero.

use serde::{Deserialize, Serialize};

/// The numbers that a tensor of activations is rounded to as the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EightBits {
    /// FP8 E4M3.
    Fp8,
    /// Integers.
    Int8,
}

/// The least scale: 2⁻²⁴, the smallest positive half. A tensor of zeros on the calibration text needs a scale that can be
/// divided by too, in every type that a reader may keep it in.
const LEAST: f32 = 1.0 / 16_777_216.0;

impl EightBits {
    /// Both, in the order of the help.
    pub(crate) const ALL: [EightBits; 2] = [EightBits::Fp8, EightBits::Int8];

    /// Returns the name that `--kv-cache` takes.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            EightBits::Fp8 => "fp8",
            EightBits::Int8 => "int8",
        }
    }

    /// Returns the largest magnitude of both signs.
    const fn largest(self) -> f32 {
        match self {
            EightBits::Fp8 => 448.0,
            EightBits::Int8 => 127.0,
        }
    }

    /// Returns the scale that maps `absmax` to the largest code: positive, and finite if `absmax` is.
    pub(crate) fn scale(self, absmax: f32) -> f32 {
        (absmax / self.largest()).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_becomes_the_largest_code() {
        assert_eq!(EightBits::Fp8.scale(896.0), 2.0);
        assert_eq!(EightBits::Int8.scale(63.5), 0.5);
        for number in EightBits::ALL {
            for absmax in [1e-3, 0.7, 3.1e4, f32::MAX] {
                let code = absmax / number.scale(absmax);
                assert!((code / number.largest() - 1.0).abs() < 1e-6, "{number:?} {absmax}");
            }
        }
    }

    #[test]
    fn scales_can_be_divided_by() {
        for absmax in [0.0, f32::MIN_POSITIVE, 1e-40, 1e-9] {
            for number in EightBits::ALL {
                let scale = number.scale(absmax);
                assert!(half::f16::from_f32(scale).to_f32() > 0.0, "{number:?} {absmax}: {scale}");
            }
        }
    }
}
