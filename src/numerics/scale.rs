//! Scales as they are stored: the value of a scale type nearest to a computed scale.

use half::{bf16, f16};

use super::{Fp8, ScaleType, fp8};

impl ScaleType {
    /// Returns the representable positive finite value nearest to a positive scale (ties to even): the largest if it
    /// overflows, the smallest if it underflows. F16 includes its subnormals: a group of weights around 1e-4 needs them.
    /// F32 and BF16 stop at the smallest normal, 1.2e-38: engines that flush subnormals would divide by zero.
    ///
    /// In MXFP4 and NVFP4 grids this is the stored scale, before NVFP4's global scale.
    pub fn nearest(self, scale: f32) -> f32 {
        let (smallest, largest) = self.range();
        let rounded = match self {
            ScaleType::F32 => scale,
            ScaleType::F16 => f16::from_f32(scale).to_f32(),
            ScaleType::BF16 => bf16::from_f32(scale).to_f32(),
            ScaleType::E8M0 => nearest_power_of_two(scale),
            ScaleType::E4M3 => fp8::table(Fp8::E4M3)[usize::from(fp8::encode(Fp8::E4M3, scale))],
        };
        rounded.clamp(smallest, largest)
    }

    /// Returns the scale with which codes up to `largest` cover magnitudes up to `reach` (a range, for asymmetric integers).
    pub(crate) fn covering(self, reach: f32, largest: f32) -> f32 {
        if reach == 0.0 { self.of_zeros() } else { self.nearest(reach / largest) }
    }

    /// Returns the scale of a group of zeros, which any scale represents: the reference observer's choice, the type's machine
    /// epsilon (E4M3: 0.125; E8M0: its smallest).
    pub(crate) const fn of_zeros(self) -> f32 {
        match self {
            ScaleType::F32 => f32::EPSILON,
            ScaleType::F16 => 1.0 / 1024.0,
            ScaleType::BF16 => 1.0 / 128.0,
            ScaleType::E8M0 => E8M0_SMALLEST,
            ScaleType::E4M3 => 0.125,
        }
    }

    /// Returns the smallest and the largest stored scale.
    const fn range(self) -> (f32, f32) {
        match self {
            ScaleType::F32 => (f32::MIN_POSITIVE, f32::MAX),
            ScaleType::F16 => (f16::MIN_POSITIVE_SUBNORMAL.to_f32_const(), f16::MAX.to_f32_const()),
            ScaleType::BF16 => (f32::MIN_POSITIVE, bf16::MAX.to_f32_const()),
            ScaleType::E8M0 => (E8M0_SMALLEST, f32::from_bits(0x7F00_0000)),
            ScaleType::E4M3 => (1.0 / 512.0, 448.0),
        }
    }
}

/// 2^-127, E8M0's code 0: a subnormal f32.
const E8M0_SMALLEST: f32 = f32::from_bits(1 << 22);

/// Rounds up from 1.5·2^n on; returns 0 below 1.5·2^-127.
fn nearest_power_of_two(scale: f32) -> f32 {
    if scale < 1.5 * E8M0_SMALLEST {
        return 0.0;
    }
    f32::from_bits((scale.to_bits() + (1 << 22)) & 0x7F80_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ScaleType; 5] =
        [ScaleType::F32, ScaleType::F16, ScaleType::BF16, ScaleType::E8M0, ScaleType::E4M3];

    #[test]
    fn every_scale_is_positive_finite_and_stays_itself() {
        let scales = [1e-45, 1e-38, 3e-8, 1e-4, 0.37, 1.0, 449.0, 7e4, f32::MAX, f32::INFINITY];
        for (kind, scale) in ALL.into_iter().flat_map(|kind| scales.map(|scale| (kind, scale))) {
            let stored = kind.nearest(scale);
            assert!(stored > 0.0 && stored.is_finite(), "{kind:?} {scale}: {stored}");
            assert_eq!(kind.nearest(stored), stored, "{kind:?} {scale}");
        }
        for kind in ALL {
            assert_eq!(kind.nearest(kind.of_zeros()), kind.of_zeros());
        }
    }

    #[test]
    fn hand_worked_roundings() {
        assert_eq!(ScaleType::BF16.nearest(1.0 + 1.0 / 256.0), 1.0, "a tie goes to even");
        assert_eq!(ScaleType::F16.nearest(1e-8), 2f32.powi(-24));
        assert_eq!(ScaleType::F16.nearest(1e6), 65504.0);
        assert_eq!(ScaleType::E8M0.nearest(3.1), 4.0);
        assert_eq!(ScaleType::E8M0.nearest(2.9), 2.0);
        assert_eq!(ScaleType::E4M3.nearest(1e-9), 1.0 / 512.0);
    }
}
