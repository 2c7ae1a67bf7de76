//! One column of many rows at a time, for methods that round columns one after the other and correct the errors of earlier
//! columns in later ones (GPTQ). Every row has a grid entry of its own, so that the rows lie side by side in registers.

use super::codec::Codec;
use super::simd::{self, Kernel};

/// One element of each of several rows, each with its grid entry; all slices are of one length.
#[derive(Debug)]
pub(crate) struct Column<'a> {
    /// The values to round.
    pub values: &'a [f32],
    /// From [`Cells::scales`](super::Cells).
    pub scales: &'a [f32],
    /// From [`Cells::zeros`](super::Cells).
    pub zeros: &'a [f32],
    /// Receives the codes.
    pub codes: &'a mut [u8],
    /// Receives the values of the codes.
    pub rounded: &'a mut [f32],
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
    use crate::numerics::{Context, Extent, Granularity, Number, ScaleType, Scheme};

    /// Checks that rounding by columns gives the codes and values of rounding by rows.
    fn check(scheme: Scheme) {
        let w =
            Array2::from_shape_fn((37, 80), |(r, c)| ((r * 80 + c) as f32 * 0.37).sin() * (1.0 + c as f32));
        let extent = Some(Extent { min: -80.0, max: 80.0 });
        let q = scheme.quantize(w.view(), &Context { extent, importance: None });
        let mut values = vec![0.0; w.len()];
        q.dequantize(&mut values);
        let codes_of_rows = &q.as_scalar().codes;
        let cells = scheme.cells(&q.as_scalar().grid);
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
                assert_eq!(
                    (codes[row], rounded[row]),
                    (codes_of_rows[at], values[at]),
                    "{scheme:?} {row} {col}"
                );
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
