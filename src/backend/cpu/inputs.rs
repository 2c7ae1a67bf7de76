//! Inputs in the form that a kernel needs, rounded once for all weights that share them, in reused buffers.
//!
//! Rounding works per element or per group of one row: a row's values do not depend on other rows.

use rayon::prelude::*;

use crate::numerics::convert;
use crate::numerics::simd::{self, Kernel};

/// The form of inputs for a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputForm {
    /// Unchanged f32.
    F32,
    /// Rounded to bfloat16.
    Bf16,
    /// 8-bit integers with one f32 scale per group of columns.
    Int8 {
        /// Columns per scale.
        group: usize,
    },
}

/// Rows of inputs in one form, prepared once for all the weights that share them.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Rows.
    pub rows: usize,
    /// Columns per row: those of the weight, rounded up to suit the form; the rest is zero.
    pub stride: usize,
    /// Values [rows, stride] if the form is `F32`.
    pub values: Vec<f32>,
    /// Bit patterns [rows, stride] if the form is `Bf16`.
    pub halves: Vec<u16>,
    /// Codes [rows, stride] within -127..=127 if the form is `Int8`.
    pub codes: Vec<i8>,
    /// Scales [rows, stride/group].
    pub scales: Vec<f32>,
    /// Sum of each group's codes, [rows, stride/group], for weights with zero points or offsets.
    pub sums: Vec<i32>,
}

impl InputForm {
    /// Returns the number of columns that a row of `cols` occupies. Rows at distances of some KB map to the same few
    /// places of the nearest cache and evict each other, so the stride avoids such distances.
    fn stride(self, cols: usize) -> usize {
        let apart = |stride: usize, bytes: usize| {
            if (stride * bytes).is_multiple_of(1024) { stride + 64 / bytes } else { stride }
        };
        match self {
            InputForm::F32 => apart(cols.next_multiple_of(2), 4),
            InputForm::Bf16 => apart(cols.next_multiple_of(2), 2),
            InputForm::Int8 { group } => cols.next_multiple_of(group),
        }
    }
}

impl Inputs {
    /// Rounds `x`, [rows, cols] with neither 0, to a form, and replaces the previous inputs.
    pub(crate) fn prepare(&mut self, form: InputForm, x: &[f32], cols: usize) {
        self.rows = x.len() / cols;
        self.stride = form.stride(cols);
        match form {
            InputForm::F32 => self.keep(x, cols),
            InputForm::Bf16 => self.halve(x, cols),
            InputForm::Int8 { group } => self.round(x, cols, group),
        }
    }

    fn keep(&mut self, x: &[f32], cols: usize) {
        self.values.resize(self.rows * self.stride, 0.0);
        let rows = x.par_chunks_exact(cols).zip(self.values.par_chunks_exact_mut(self.stride));
        rows.with_min_len(rows_per_task(cols)).for_each(|(row, out)| {
            out[..cols].copy_from_slice(row);
            out[cols..].fill(0.0);
        });
    }

    fn halve(&mut self, x: &[f32], cols: usize) {
        self.halves.resize(self.rows * self.stride, 0);
        let rows = x.par_chunks_exact(cols).zip(self.halves.par_chunks_exact_mut(self.stride));
        rows.with_min_len(rows_per_task(cols)).for_each(|(row, out)| simd::dispatch(ToBf16 { row, out }));
    }

    fn round(&mut self, x: &[f32], cols: usize, group: usize) {
        let groups = self.stride / group;
        self.codes.resize(self.rows * self.stride, 0);
        self.scales.resize(self.rows * groups, 0.0);
        self.sums.resize(self.rows * groups, 0);
        let rows = x.par_chunks_exact(cols).zip(self.codes.par_chunks_exact_mut(self.stride));
        let grids = self.scales.par_chunks_exact_mut(groups).zip(self.sums.par_chunks_exact_mut(groups));
        rows.zip(grids).with_min_len(rows_per_task(cols)).for_each(|((row, codes), (scales, sums))| {
            simd::dispatch(ToInt8 { row, group, codes, scales, sums });
        });
    }
}

/// Returns the minimum number of rows for another thread: about ten microseconds of work.
fn rows_per_task(cols: usize) -> usize {
    (1 << 15) / cols + 1
}

/// Rounds a row to bfloat16, ties to even; the rest of `out` is zeroed.
struct ToBf16<'a> {
    row: &'a [f32],
    out: &'a mut [u16],
}

impl Kernel for ToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (values, rest) = self.out.split_at_mut(self.row.len());
        for (&value, out) in self.row.iter().zip(values) {
            *out = convert::bf16_bits(value);
        }
        rest.fill(0);
    }
}

/// Rounds each group of a row to integers within ±127, ties to even, with the scale absmax/127; zeros beyond the row.
struct ToInt8<'a> {
    row: &'a [f32],
    group: usize,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Kernel for ToInt8<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let groups = self.row.chunks(self.group).zip(self.codes.chunks_exact_mut(self.group));
        for ((values, codes), (scale, sum)) in groups.zip(self.scales.iter_mut().zip(self.sums)) {
            let (codes, rest) = codes.split_at_mut(values.len());
            (*scale, *sum) = round_group(values, codes);
            rest.fill(0);
        }
    }
}

/// A number that rounds: adding it to a number below 2²² leaves the nearest integer in the low bits; subtracting it
/// again leaves that integer.
const ROUNDER: f32 = 12_582_912.0;

/// Below this, 127/absmax overflows; the codes of such a group are zero.
const TINY: f32 = 1e-36;

#[inline(always)]
fn round_group(values: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let absmax = absmax(values);
    let inverse = if absmax >= TINY { 127.0 / absmax } else { 0.0 };
    let mut sum = 0;
    for (&value, code) in values.iter().zip(codes) {
        *code = (value * inverse + ROUNDER).to_bits() as i8;
        sum += i32::from(*code);
    }
    (absmax / 127.0, sum)
}

/// Returns the largest magnitude, or NaN if there is a NaN: compared as integers, bits of magnitudes are in the right
/// order, NaN last.
#[inline(always)]
fn absmax(values: &[f32]) -> f32 {
    let magnitude = |value: f32| value.to_bits() & 0x7FFF_FFFF;
    let (eights, rest) = values.as_chunks::<8>();
    let mut lanes = [0u32; 8];
    for eight in eights {
        for (lane, &value) in lanes.iter_mut().zip(eight) {
            *lane = (*lane).max(magnitude(value));
        }
    }
    let largest = rest.iter().map(|&value| magnitude(value)).chain(lanes).max();
    f32::from_bits(largest.unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use half::bf16;

    use super::*;

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919) % 1009) as f32 / 100.0 - 5.0).collect()
    }

    #[test]
    fn rows_are_padded_with_zeros_also_where_others_were_held_before() {
        for form in [InputForm::F32, InputForm::Bf16, InputForm::Int8 { group: 32 }] {
            let mut inputs = Inputs::default();
            inputs.prepare(form, &values(4 * 100), 100);
            inputs.prepare(form, &values(3 * 33), 33);
            let stride = if form == (InputForm::Int8 { group: 32 }) { 64 } else { 34 };
            assert_eq!((inputs.rows, inputs.stride), (3, stride));
            let padding = |at: usize| at % stride >= 33;
            assert!((0..inputs.values.len()).filter(|&i| padding(i)).all(|i| inputs.values[i] == 0.0));
            assert!((0..inputs.halves.len()).filter(|&i| padding(i)).all(|i| inputs.halves[i] == 0));
            assert!((0..inputs.codes.len()).filter(|&i| padding(i)).all(|i| inputs.codes[i] == 0));
        }
    }

    #[test]
    fn bf16_is_rounded_as_half_does() {
        let x = values(577);
        let mut inputs = Inputs::default();
        inputs.prepare(InputForm::Bf16, &x, 577);
        let expected: Vec<u16> = x.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
        assert_eq!(inputs.halves[..577], expected);
    }

    #[test]
    fn int8_codes_are_the_nearest_and_their_sums_are_theirs() {
        let x = values(2 * 100);
        let mut inputs = Inputs::default();
        inputs.prepare(InputForm::Int8 { group: 32 }, &x, 100);
        for (row, x) in x.chunks(100).enumerate() {
            for (group, x) in x.chunks(32).enumerate() {
                let codes = &inputs.codes[row * 128 + group * 32..][..x.len()];
                let scale = inputs.scales[row * 4 + group];
                let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert_eq!(scale, largest / 127.0);
                for (&code, &value) in codes.iter().zip(x) {
                    assert!((f32::from(code) * scale - value).abs() <= scale * 0.5001, "{code} for {value}");
                }
                assert_eq!(inputs.sums[row * 4 + group], codes.iter().map(|&c| i32::from(c)).sum::<i32>());
            }
        }
    }

    #[test]
    fn int8_of_extreme_values() {
        let mut inputs = Inputs::default();
        for (value, code) in [(0.0, 0), (1e-45, 0), (1e-35, 127), (f32::MAX, 127)] {
            inputs.prepare(InputForm::Int8 { group: 4 }, &[value, -value, 0.0, value], 4);
            assert_eq!(inputs.codes, [code, -code, 0, code], "{value}");
        }
        for value in [f32::NAN, f32::INFINITY] {
            inputs.prepare(InputForm::Int8 { group: 4 }, &[1.0, value, 0.0, 2.0], 4);
            assert!(!inputs.scales[0].is_finite(), "{value} is not lost");
        }
    }

    #[test]
    fn many_rows_are_rounded_as_one_at_a_time() {
        let (x, mut all, mut one) = (values(300 * 577), Inputs::default(), Inputs::default());
        all.prepare(InputForm::Int8 { group: 32 }, &x, 577);
        for (row, x) in x.chunks(577).enumerate() {
            one.prepare(InputForm::Int8 { group: 32 }, x, 577);
            assert_eq!(one.codes, all.codes[row * all.stride..][..all.stride]);
            assert_eq!(one.scales, all.scales[row * one.scales.len()..][..one.scales.len()]);
        }
    }
}
