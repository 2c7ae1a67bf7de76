//! One column of many rows at a time, for methods that round columns one after the other and let later ones make up for the
//! errors of earlier ones (GPTQ). Every row has a grid entry of its own, so that the rows lie side by side in registers.

use super::codec::Codec;
use super::simd::{self, Kernel};
use super::{Grid, Number, Scheme, fp4, fp8, int, nf4};

/// A grid as the codecs read it: w = decode(code, zero)·scale.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cells {
    /// One per grid entry, NVFP4's global scale divided out.
    pub scales: Vec<f32>,
    /// One per grid entry: the zero point as the codec subtracts it, 0 where the scheme is symmetric.
    pub zeros: Vec<f32>,
}

/// One element of each of several rows, each with its grid entry; all slices are of one length.
#[derive(Debug)]
pub struct Column<'a> {
    /// What is rounded.
    pub values: &'a [f32],
    /// From [`Cells::scales`].
    pub scales: &'a [f32],
    /// From [`Cells::zeros`].
    pub zeros: &'a [f32],
    /// Receives the codes.
    pub codes: &'a mut [u8],
    /// Receives what the codes stand for.
    pub rounded: &'a mut [f32],
}

impl Scheme {
    /// The grid as [`Scheme::round_column`] takes it.
    ///
    /// # Panics
    /// Of a GGUF block type, which has no grid.
    pub fn cells(&self, grid: &Grid) -> Cells {
        match self.number {
            Number::Int { .. } => int::cells(self, grid),
            Number::Fp4 => fp4::cells(grid),
            Number::Fp8(_) | Number::Nf4 => {
                Cells { scales: grid.scales.clone(), zeros: vec![0.0; grid.scales.len()] }
            }
            Number::Ggml(block) => panic!("{} has no grid", block.name()),
        }
    }

    /// Rounds each value to the nearest code of its grid entry, as [`Scheme::round`] does, and back.
    ///
    /// # Panics
    /// Of a GGUF block type, whose values cannot be rounded one by one.
    pub fn round_column(&self, column: Column) {
        match self.number {
            Number::Int { .. } => int::round_column(self, column),
            Number::Fp8(_) => fp8::round_column(self, column),
            Number::Fp4 => fp4::round_column(column),
            Number::Nf4 => nf4::round_column(column),
            Number::Ggml(block) => panic!("{} rounds whole blocks only", block.name()),
        }
    }
}

impl Column<'_> {
    pub(super) fn round<C: Codec>(self, codec: C) {
        simd::dispatch(Round { codec, column: self });
    }
}

struct Round<'a, C> {
    codec: C,
    column: Column<'a>,
}

impl<C: Codec> Kernel for Round<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Column { values, scales, zeros, codes, rounded } = self.column;
        let cells = scales.iter().zip(zeros);
        for (((&value, (&scale, &zero)), code), rounded) in values.iter().zip(cells).zip(codes).zip(rounded) {
            *code = self.codec.encode(value / scale, zero);
            *rounded = self.codec.decode(*code, zero) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::numerics::presets::PRESETS;
    use crate::numerics::{Context, Extent, Granularity, ScaleType};

    /// Column by column or row by row: the same codes, and what they stand for.
    fn check(scheme: Scheme) {
        let w =
            Array2::from_shape_fn((37, 80), |(r, c)| ((r * 80 + c) as f32 * 0.37).sin() * (1.0 + c as f32));
        let extent = Some(Extent { min: -80.0, max: 80.0 });
        let q = scheme.quantize(w.view(), &Context { extent, importance: None });
        let mut values = vec![0.0; w.len()];
        q.dequantize(&mut values);
        let cells = scheme.cells(&q.grid);
        for col in 0..q.cols {
            let entry = |row| scheme.grid_index(row, col, q.cols);
            let [scales, zeros] = [&cells.scales, &cells.zeros]
                .map(|of| (0..q.rows).map(|row| of[entry(row)]).collect::<Vec<_>>());
            let (mut codes, mut rounded) = (vec![0; q.rows], vec![0.0; q.rows]);
            scheme.round_column(Column {
                values: &w.column(col).to_vec(),
                scales: &scales,
                zeros: &zeros,
                codes: &mut codes,
                rounded: &mut rounded,
            });
            for row in 0..q.rows {
                let at = row * q.cols + col;
                assert_eq!((codes[row], rounded[row]), (q.codes[at], values[at]), "{scheme:?} {row} {col}");
            }
        }
    }

    #[test]
    fn columns_are_rounded_as_rows_are() {
        let presets = PRESETS.iter().map(|preset| preset.scheme);
        presets.filter(|scheme| !matches!(scheme.number, Number::Ggml(_))).for_each(check);
        for bits in 2..=8 {
            check(Scheme::int(bits, Granularity::Group(48), false, ScaleType::F16));
        }
    }
}
