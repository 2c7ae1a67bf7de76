//! Floats of eight bits and fewer: E4M3, E5M2, E2M1.
//!
//! Formats: OCP 8-bit Floating Point 1.0 and OCP Microscaling Formats 1.0 (opencompute.org). Only the magnitude is coded
//! here; `fp8` and `fp4` handle sign, NaN and infinities.

/// A float format of `mantissa` stored mantissa bits and an exponent bias, with subnormals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Minifloat {
    /// Stored mantissa bits.
    mantissa: u32,
    /// Exponent bias.
    bias: u32,
    /// Largest finite value.
    pub max: f32,
}

/// FP8 with 4 exponent bits: no infinities, NaN is 0x7F.
pub(crate) const E4M3: Minifloat = Minifloat { mantissa: 3, bias: 7, max: 448.0 };

/// FP8 with 5 exponent bits: the upper half of an IEEE half.
pub(crate) const E5M2: Minifloat = Minifloat { mantissa: 2, bias: 15, max: 57344.0 };

/// FP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
pub(crate) const E2M1: Minifloat = Minifloat { mantissa: 1, bias: 1, max: 6.0 };

impl Minifloat {
    /// Returns the code nearest to a magnitude in 0..=max, ties to even.
    ///
    /// Normal values are rounded in the bits of the f32: adding just under half of the last kept place carries if the rest is
    /// larger. Subnormals are a fixed-point number; adding the power of two whose last place is theirs aligns and rounds
    /// them in one addition.
    #[inline(always)]
    pub(crate) fn encode(self, magnitude: f32) -> u8 {
        let shift = 23 - self.mantissa;
        let bits = magnitude.to_bits();
        let rounded = bits + ((1 << (shift - 1)) - 1) + ((bits >> shift) & 1);
        let normal = (rounded >> shift).wrapping_sub((127 - self.bias) << self.mantissa);
        let align = f32::from_bits((127 + 24 - self.bias - self.mantissa) << 23);
        let subnormal = (magnitude + align).to_bits().wrapping_sub(align.to_bits());
        (if magnitude < self.smallest_normal() { subnormal } else { normal }) as u8
    }

    /// Returns the value of a code without its sign bit.
    pub(crate) fn decode(self, code: u8) -> f32 {
        let exponent = u32::from(code) >> self.mantissa;
        let fraction = u32::from(code) & ((1 << self.mantissa) - 1);
        let steps = fraction + if exponent > 0 { 1 << self.mantissa } else { 0 };
        let place = exponent.max(1) as i32 - (self.bias + self.mantissa) as i32;
        steps as f32 * 2f32.powi(place)
    }

    const fn smallest_normal(self) -> f32 {
        f32::from_bits((127 + 1 - self.bias) << 23)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the code by its definition: the one of the nearest value, the even code in a tie.
    fn nearest(format: Minifloat, codes: u8, magnitude: f32) -> u8 {
        let distance = |code: &u8| (f64::from(format.decode(*code)) - f64::from(magnitude)).abs();
        let key = |code: &u8| (distance(code), code % 2);
        (0..codes).min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap()
    }

    /// Checks every boundary between two codes, its two neighbours among f32, and every value itself.
    fn check(format: Minifloat, codes: u8) {
        for code in 0..codes {
            let value = format.decode(code);
            assert_eq!(format.encode(value), code);
            if code + 1 < codes {
                let middle = (value + format.decode(code + 1)) / 2.0;
                for x in [middle.next_down(), middle, middle.next_up()] {
                    assert_eq!(format.encode(x), nearest(format, codes, x), "{x}");
                }
            }
        }
        assert_eq!(format.decode(codes - 1), format.max);
        assert_eq!(format.encode(f32::from_bits(1)), 0);
    }

    #[test]
    fn e4m3_rounds_to_the_nearest_even() {
        check(E4M3, 0x7F);
    }

    #[test]
    fn e5m2_rounds_to_the_nearest_even() {
        check(E5M2, 0x7C);
    }

    #[test]
    fn e2m1_rounds_to_the_nearest_even() {
        check(E2M1, 8);
    }

    #[test]
    fn values_of_the_specifications() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7].map(|c| E2M1.decode(c)),
            [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        );
        assert_eq!(
            [0x01, 0x07, 0x08, 0x7E].map(|c| E4M3.decode(c)),
            [1.0 / 512.0, 7.0 / 512.0, 1.0 / 64.0, 448.0]
        );
        assert_eq!(
            [0x01, 0x03, 0x04, 0x7B].map(|c| E5M2.decode(c)),
            [2f32.powi(-16), 3.0 * 2f32.powi(-16), 2f32.powi(-14), 57344.0]
        );
    }
}
