//! Sixteen f32 at a time: what the kernels are written in, and the plain implementation.
//!
//! Lane *i* belongs to row *i* of a panel. Products are added in the order of the columns, one accumulator per element of
//! the output, so that a result depends neither on how many rows are multiplied at once nor on the number of threads.

use half::f16;

use super::super::pages::Line;
use super::kernel::{Format, Tile, tile};

/// A vector of 16 f32, in as many registers as that takes.
pub(in super::super) trait Lanes: Copy {
    /// A line as it was loaded.
    type Raw: Copy;

    /// Panels of a tile.
    const PANELS: usize;
    /// Panels that a lone row meets at once.
    const ROW_PANELS: usize;

    /// The most rows of a tile whose sums stay in registers, for lines of so many columns.
    fn most_rows(columns: usize) -> usize;
    fn zero() -> Self;
    fn splat(value: f32) -> Self;
    /// self + a·b, fused where the CPU fuses.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn raw(line: &Line) -> Self::Raw;
    /// 16 f32.
    fn singles(raw: Self::Raw) -> Self;
    /// The even and the odd columns of 16 pairs of bfloat16.
    fn pairs(raw: Self::Raw) -> [Self; 2];
    /// Two columns of 16 f16.
    fn halves(raw: Self::Raw) -> [Self; 2];
    /// self + the products of 16 pairs of bfloat16 with one pair of inputs.
    fn add_pairs(self, raw: Self::Raw, inputs: [u16; 2]) -> Self;
    fn load(values: &[f32; 16]) -> Self;
    fn store(self, out: &mut [f32; 16]);
    /// Asks for a line that will be needed; it need not exist.
    fn prefetch(line: *const Line);
    /// Computes a tile of so many rows and panels, at most [`Lanes::most_rows`] and [`Lanes::PANELS`];
    /// of one row, at most [`Lanes::ROW_PANELS`].
    fn tile<F: Format>(args: &mut Tile<F::Input>, rows: usize, panels: usize);
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(in super::super) struct Plain([f32; 16]);

impl Plain {
    #[inline(always)]
    fn each(value: impl FnMut(usize) -> f32) -> Self {
        Plain(std::array::from_fn(value))
    }
}

#[inline(always)]
fn half_at(line: &Line, at: usize) -> u16 {
    u16::from_le_bytes([line[2 * at], line[2 * at + 1]])
}

#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Lanes for Plain {
    type Raw = Line;

    const PANELS: usize = 1;
    const ROW_PANELS: usize = 1;

    #[inline(always)]
    fn most_rows(_: usize) -> usize {
        4
    }
    #[inline(always)]
    fn zero() -> Self {
        Plain([0.0; 16])
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Plain([value; 16])
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
        Plain(*values)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16]) {
        *out = self.0;
    }
    #[inline(always)]
    fn prefetch(_: *const Line) {}
    #[inline(always)]
    fn tile<F: Format>(args: &mut Tile<F::Input>, rows: usize, _: usize) {
        match rows {
            1 => tile::<Self, F, 1, 1>(args),
            2 => tile::<Self, F, 2, 1>(args),
            3 => tile::<Self, F, 3, 1>(args),
            _ => tile::<Self, F, 4, 1>(args),
        }
    }
}
