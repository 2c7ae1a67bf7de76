//! The f16 scale of a super-block, while its values are scaled by a power of two.

use half::f16;

/// The power of two that a super-block was divided by: fits work in units of it, files in units of one.
#[derive(Clone, Copy)]
pub(crate) struct Unit(pub f32);

impl Unit {
    /// Returns the f16 that a file stores for `scale`; saturates.
    #[inline(always)]
    pub(crate) fn store(self, scale: f32) -> f16 {
        let largest = f16::MAX.to_f32();
        f16::from_f32((scale * self.0).clamp(-largest, largest))
    }

    /// Returns the scale of a file's value.
    #[inline(always)]
    pub(crate) fn load(self, stored: f16) -> f32 {
        stored.to_f32() / self.0
    }

    /// Returns the nearest scale that a file can hold.
    #[inline(always)]
    pub(crate) fn nearest(self, scale: f32) -> f32 {
        self.load(self.store(scale))
    }

    /// Returns the nearest scale away from zero. Among f16's subnormals rounding down could lose a third of the scale, and the
    /// sub-blocks' integers could not compensate for it.
    #[inline(always)]
    pub(crate) fn at_least(self, scale: f32) -> f32 {
        let stored = self.store(scale);
        let short = self.load(stored).abs() < scale.abs() && stored.to_bits() & 0x7fff < f16::MAX.to_bits();
        let sign = f16::from_f32(scale).to_bits() & 0x8000;
        let up = f16::from_bits((stored.to_bits() & 0x7fff | sign) + u16::from(short));
        self.load(up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_away_from_zero_among_subnormals() {
        let step = f16::from_bits(1).to_f32();
        let check = |scale: f32, expected: f32| assert_eq!(Unit(1.0).at_least(scale), expected);
        check(0.0, 0.0);
        check(step * 0.2, step);
        check(step * 1.4, step * 2.0);
        check(-step * 1.4, -step * 2.0);
        check(step * 3.0, step * 3.0);
    }

    #[test]
    fn saturates() {
        assert_eq!(Unit(1e30).store(2.0), f16::MAX);
        assert_eq!(Unit(1e30).store(-2.0), f16::MIN);
        assert!(Unit(1e30).at_least(2.0).is_finite());
    }
}
