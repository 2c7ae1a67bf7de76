//! Moving scales through a [`Fold`]: columns of what reads an input are multiplied, what makes it is divided, and the
//! statistics follow, so that the block computes the same. What `awq` and `smoothquant` share.

use ndarray::Array2;

use crate::error::Result;
use crate::model::{Feeder, Fold};
use crate::numerics::Weight;
use crate::stage::{Block, Linear};
use crate::statistics::Statistics;

/// Multiplies column j of every reader of the block's fold `fold` by `scales[j]`, and divides element `columns[j]` of the
/// feeder by it. `scales`: \[cols\], positive, the same for all columns of one element.
///
/// # Errors
/// Weights that are quantized already.
pub fn scale(block: &mut Block, fold: usize, scales: &[f32]) -> Result<()> {
    let Fold { feeder, readers, columns, .. } = &block.folds[fold];
    let mut inputs: Vec<usize> = Vec::new();
    for &reader in readers {
        let linear = &mut block.linears[reader];
        for mut row in dense_mut(linear)?.rows_mut() {
            row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s);
        }
        if let Some(importance) = &mut linear.importance {
            importance.iter_mut().zip(scales).for_each(|(value, s)| *value /= s * s);
        }
        inputs.extend(linear.input);
    }
    inputs.sort_unstable();
    inputs.dedup();
    inputs.into_iter().for_each(|input| divide_inputs(&mut block.inputs[input], scales));
    let divisors = by_element(columns, scales, 1.0, |_, scale| scale);
    match *feeder {
        Feeder::Norm(norm) => {
            let norm = &mut block.norms[norm];
            divide(&mut norm.weight, &divisors);
            norm.bias.iter_mut().for_each(|bias| divide(bias, &divisors));
        }
        Feeder::Linear(linear) => divide_rows(&mut block.linears[linear], &divisors)?,
    }
    Ok(())
}

/// The mean of what columns of one element of the feeder have, for each column. \[cols\].
pub fn shared_mean(columns: &[u32], values: &[f32]) -> Vec<f32> {
    let sums = by_element(columns, values, (0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    columns.iter().map(|&element| sums[element as usize]).map(|(sum, count)| sum / count).collect()
}

/// The largest of what columns of one element of the feeder have, for each column. \[cols\].
pub fn shared_max(columns: &[u32], values: &[f32]) -> Vec<f32> {
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

/// The values of a linear, to be rewritten.
///
/// # Errors
/// Where they are quantized already.
pub fn dense_mut(linear: &mut Linear) -> Result<&mut Array2<f32>> {
    linear.dense()?;
    match &mut linear.weight {
        Weight::Dense(values) => Ok(values),
        Weight::Quantized(_) => unreachable!("dense() has refused it"),
    }
}

/// Divides leading values by what they have; others stay.
fn divide(values: &mut [f32], divisors: &[f32]) {
    values.iter_mut().zip(divisors).for_each(|(value, divisor)| *value /= divisor);
}

fn divide_rows(linear: &mut Linear, divisors: &[f32]) -> Result<()> {
    for (mut row, divisor) in dense_mut(linear)?.rows_mut().into_iter().zip(divisors) {
        row.iter_mut().for_each(|w| *w /= divisor);
    }
    linear.bias.iter_mut().for_each(|bias| divide(bias, divisors));
    Ok(())
}

/// The statistics of x / scales, from those of x.
fn divide_inputs(statistics: &mut Statistics, scales: &[f32]) {
    let wide = || scales.iter().map(|&s| f64::from(s));
    statistics.absmax.iter_mut().zip(scales).for_each(|(max, s)| *max /= s);
    statistics.sum_abs.iter_mut().zip(wide()).for_each(|(sum, s)| *sum /= s);
    statistics.sum_squares.iter_mut().zip(wide()).for_each(|(sum, s)| *sum /= s * s);
    if let Some(gram) = &mut statistics.gram {
        for (mut row, s) in gram.rows_mut().into_iter().zip(scales) {
            row.iter_mut().zip(scales).for_each(|(value, t)| *value /= s * t);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Needs;
    use ndarray::array;

    #[test]
    fn statistics_follow_the_inputs() {
        let needs = Needs { absmax: true, mean_abs: true, second_moment: true, hessian: true };
        let of = |x: Array2<f32>| {
            let mut statistics = Statistics::new(2, needs);
            statistics.observe(x.view());
            statistics
        };
        let x = array![[1.0, -8.0], [3.0, 2.0], [-2.0, 0.0]];
        let mut divided = of(x.clone());
        divide_inputs(&mut divided, &[0.5, 4.0]);
        assert_eq!(divided, of(x / array![0.5, 4.0]));
    }

    #[test]
    fn columns_of_one_element_share() {
        let columns = [2, 2, 0, 0, 2];
        assert_eq!(shared_max(&columns, &[1.0, 5.0, 2.0, 3.0, 4.0]), [5.0, 5.0, 3.0, 3.0, 5.0]);
        assert_eq!(shared_mean(&columns, &[1.0, 5.0, 2.0, 3.0, 3.0]), [3.0, 3.0, 2.5, 2.5, 3.0]);
    }
}
