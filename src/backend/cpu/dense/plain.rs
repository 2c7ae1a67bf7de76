//! [`FloatLanes`] in plain Rust.

use half::f16;

use super::super::pages::Line;
use super::lanes::{FloatLanes, FloatTile, Format, widen};
use super::tile::tile;

/// Lanes in plain Rust.
#[derive(Clone, Copy)]
pub(in super::super) struct PlainFloat([f32; 16]);

impl PlainFloat {
    #[inline(always)]
    fn each(value: impl FnMut(usize) -> f32) -> Self {
        PlainFloat(std::array::from_fn(value))
    }
}

#[inline(always)]
fn half_at(line: &Line, at: usize) -> u16 {
    u16::from_le_bytes([line[2 * at], line[2 * at + 1]])
}

impl FloatLanes for PlainFloat {
    type Raw = Line;

    const PANELS: usize = 1;
    const ROW_PANELS: usize = 1;

    #[inline(always)]
    fn most_rows(_: usize) -> usize {
        4
    }
    #[inline(always)]
    fn zero() -> Self {
        PlainFloat([0.0; 16])
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        PlainFloat([value; 16])
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        Self::each(|i| self.0[i] + a.0[i] * b.0[i])
    }
    #[inline(always)]
    fn raw(line: &Line) -> Line {
        *line
    }
    #[inline(always)]
    fn singles(raw: Line) -> Self {
        Self::each(|i| f32::from_le_bytes([raw[4 * i], raw[4 * i + 1], raw[4 * i + 2], raw[4 * i + 3]]))
    }
    #[inline(always)]
    fn pairs(raw: Line) -> [Self; 2] {
        [0, 1].map(|column| Self::each(|i| widen(half_at(&raw, 2 * i + column))))
    }
    #[inline(always)]
    fn halves(raw: Line) -> [Self; 2] {
        [0, 16].map(|column| Self::each(|i| f16::from_bits(half_at(&raw, column + i)).to_f32()))
    }
    #[inline(always)]
    fn add_pairs(self, raw: Line, inputs: [u16; 2]) -> Self {
        let [even, odd] = Self::pairs(raw);
        let sum = self.add_product(odd, Self::splat(widen(inputs[1])));
        sum.add_product(even, Self::splat(widen(inputs[0])))
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Self {
        PlainFloat(*values)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16]) {
        *out = self.0;
    }
    #[inline(always)]
    fn prefetch(_: *const Line) {}
    #[inline(always)]
    fn tile<F: Format>(args: &mut FloatTile<F::Input>, rows: usize, _: usize) {
        match rows {
            1 => tile::<Self, F, 1, 1>(args),
            2 => tile::<Self, F, 2, 1>(args),
            3 => tile::<Self, F, 3, 1>(args),
            _ => tile::<Self, F, 4, 1>(args),
        }
    }
}
