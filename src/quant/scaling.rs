//! Scales moved through a [`Fold`], for `awq` and `smoothquant`: the columns of the linears that read an input are
//! multiplied, and the norm or linear that makes the input is divided, so that the block computes the same.

use crate::error::Result;
use crate::model::{Feeder, Fold};
use crate::stage::Editor;
use crate::statistics::Statistics;

/// Multiplies column j of every reader of a fold by `scales[j]`, and divides element `columns[j]` of the feeder by it.
/// `scales`: \[cols\], positive, the same for all columns of one element.
///
/// # Errors
/// Weights that are quantized already.
pub fn scale(editor: &mut Editor, fold: &Fold, scales: &[f32]) -> Result<()> {
    for &reader in &fold.readers {
        for mut row in editor.weight_mut(reader)?.rows_mut() {
            row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s);
        }
    }
    let divisors = by_element(&fold.columns, scales, 1.0, |_, scale| scale);
    match fold.feeder {
        Feeder::Norm(norm) => {
            let norm = editor.norm_mut(norm);
            divide(&mut norm.weight, &divisors);
            norm.bias.iter_mut().for_each(|bias| divide(bias, &divisors));
        }
        Feeder::Linear(linear) => divide_rows(editor, linear, &divisors)?,
    }
    Ok(())
}

/// The mean of the values of all columns that share an element of the feeder, for each column. \[cols\].
pub(crate) fn shared_mean(columns: &[u32], values: &[f32]) -> Vec<f32> {
    let sums = by_element(columns, values, (0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    columns.iter().map(|&element| sums[element as usize]).map(|(sum, count)| sum / count).collect()
}

/// The largest of the values of all columns that share an element of the feeder, for each column. \[cols\].
pub(crate) fn shared_max(columns: &[u32], values: &[f32]) -> Vec<f32> {
    let largest = by_element(columns, values, 0f32, f32::max);
    columns.iter().map(|&element| largest[element as usize]).collect()
}

/// Folds the values of the columns of each element; elements without columns keep `start`.
fn by_element<T: Clone + Copy>(
    columns: &[u32],
    values: &[f32],
    start: T,
    join: impl Fn(T, f32) -> T,
) -> Vec<T> {
    let mut joined = vec![start; columns.iter().max().map_or(0, |&max| max as usize + 1)];
    for (&element, &value) in columns.iter().zip(values) {
        joined[element as usize] = join(joined[element as usize], value);
    }
    joined
}

/// Divides values one by one; values without a divisor stay.
fn divide(values: &mut [f32], divisors: &[f32]) {
    values.iter_mut().zip(divisors).for_each(|(value, divisor)| *value /= divisor);
}

fn divide_rows(editor: &mut Editor, linear: usize, divisors: &[f32]) -> Result<()> {
    for (mut row, divisor) in editor.weight_mut(linear)?.rows_mut().into_iter().zip(divisors) {
        row.iter_mut().for_each(|w| *w /= divisor);
    }
    if let Some(bias) = editor.bias_mut(linear) {
        divide(bias, divisors);
    }
    Ok(())
}

/// Returns the statistics of x / scales, given those of x.
pub fn divided(statistics: &Statistics, scales: &[f32]) -> Statistics {
    let mut divided = statistics.clone();
    let wide = || scales.iter().map(|&s| f64::from(s));
    divide(&mut divided.absmax, scales);
    divided.sum_abs.iter_mut().zip(wide()).for_each(|(sum, s)| *sum /= s);
    divided.sum_squares.iter_mut().zip(wide()).for_each(|(sum, s)| *sum /= s * s);
    if let Some(gram) = &mut divided.gram {
        for (mut row, s) in gram.rows_mut().into_iter().zip(scales) {
            row.iter_mut().zip(scales).for_each(|(value, t)| *value /= s * t);
        }
    }
    divided
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Needs;
    use ndarray::{Array2, array};

    #[test]
    fn statistics_follow_the_inputs() {
        let needs = Needs { absmax: true, mean_abs: true, second_moment: true, hessian: true };
        let of = |x: Array2<f32>| {
            let mut statistics = Statistics::new(2, needs);
            statistics.observe(x.view());
            statistics
        };
        let x = array![[1.0, -8.0], [3.0, 2.0], [-2.0, 0.0]];
        assert_eq!(divided(&of(x.clone()), &[0.5, 4.0]), of(x / array![0.5, 4.0]));
    }

    #[test]
    fn columns_of_one_element_share() {
        let columns = [2, 2, 0, 0, 2];
        assert_eq!(shared_max(&columns, &[1.0, 5.0, 2.0, 3.0, 4.0]), [5.0, 5.0, 3.0, 3.0, 5.0]);
        assert_eq!(shared_mean(&columns, &[1.0, 5.0, 2.0, 3.0, 3.0]), [3.0, 3.0, 2.5, 2.5, 3.0]);
    }
}
