//! Moving scales through a [`Fold`]: columns of what reads an input are multiplied, what makes it is divided, and the
//! statistics follow, so that the block computes the same. What `awq` and `smoothquant` share.

use ndarray::Array2;

use crate::error::Result;
use crate::method::{Block, Linear};
use crate::model::{Feeder, Fold};
use crate::statistics::Statistics;
use crate::tensor::Weight;

/// Multiplies column j of every reader of the block's fold `fold` by `scales[j]`, and divides element `columns[j]` of the
/// feeder by it. `scales`: [cols], positive, the same for all columns of one element.
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
    let divisors = by_element(columns, scales);
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

/// (element of the feeder, divisor), each element once.
fn by_element(columns: &[u32], scales: &[f32]) -> Vec<(usize, f32)> {
    let mut pairs: Vec<_> =
        columns.iter().map(|&element| element as usize).zip(scales.iter().copied()).collect();
    pairs.sort_by_key(|(element, _)| *element);
    pairs.dedup_by_key(|(element, _)| *element);
    pairs
}

fn divide(values: &mut [f32], divisors: &[(usize, f32)]) {
    divisors.iter().for_each(|&(element, divisor)| values[element] /= divisor);
}

fn divide_rows(linear: &mut Linear, divisors: &[(usize, f32)]) -> Result<()> {
    let values = dense_mut(linear)?;
    for &(row, divisor) in divisors {
        values.row_mut(row).iter_mut().for_each(|w| *w /= divisor);
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
