//! `smoothquant`: moves the size of outlying inputs into the weights, before both are rounded to 8 bits.
//!
//! **What.** Column j of the linears that read an input is multiplied by s_j, and what makes the input divided by it:
//!
//! ```text
//! s_j = max|x_j|^α / max|w_j|^(1−α)
//! ```
//!
//! the maxima over the calibration set and over the rows of the linears that are to be quantized. The model computes the
//! same; the weights stay dense, for `rtn` or another method to round.
//!
//! **Why.** A few columns of the activations are a hundred times the others; an 8-bit scale per token or tensor that
//! covers them leaves no codes for the rest. Weights have room.
//!
//! **When.** INT8 activations (w8a8). α is higher (0.75 to 0.85) for models with larger outliers. By default scales go into
//! norms only, as in the paper; `folds = "all"` smooths the inputs of o and down too.
//!
//! **Cost.** One pass over the weights; the largest magnitude of each input column.
//!
//! Reference: Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
//! <https://arxiv.org/abs/2211.10438>, equation 4.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::scaling::{scale, shared_max};
use crate::error::{Error, Result};
use crate::model::{Feeder, Fold};
use crate::stage::{self, Block, Def, Editor, Edits, Rewrite, Stage};
use crate::statistics::Needs;

/// Registry entry.
pub const DEF: Def = Def {
    name: "smoothquant",
    summary: "move outliers of activations into the weights, before both become 8 bits: calibration, seconds",
    supports: |_| Ok(()),
    build: |table| Ok(Stage::Rewrite(Arc::new(build(stage::parse("smoothquant", table)?)?))),
};

/// Smoothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SmoothQuant {
    /// The share of the range that moves to the weights: 0 to 1.
    pub alpha: f32,
    /// The places that scales may move to.
    pub folds: Folds,
}

/// The places that scales may move to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Folds {
    /// Into norms.
    Norms,
    /// Into v and up too.
    All,
}

impl Default for SmoothQuant {
    fn default() -> Self {
        SmoothQuant { alpha: 0.5, folds: Folds::Norms }
    }
}

fn build(parameters: SmoothQuant) -> Result<SmoothQuant> {
    if (0.0..=1.0).contains(&parameters.alpha) {
        return Ok(parameters);
    }
    let what = format!("smoothquant: alpha is {}", parameters.alpha);
    Err(Error::usage(what, "it goes from 0 (inputs stay) to 1 (all goes to the weights)"))
}

impl Rewrite for SmoothQuant {
    fn needs(&self) -> Needs {
        Needs { absmax: true, ..Needs::default() }
    }

    fn rewrite(&self, block: &Block) -> Result<Edits> {
        let mut editor = Editor::new(block);
        for fold in &block.folds {
            if self.folds == Folds::Norms && !matches!(fold.feeder, Feeder::Norm(_)) {
                continue;
            }
            if let Some(scales) = self.scales(&editor, fold)? {
                scale(&mut editor, fold, &scales)?;
            }
        }
        Ok(editor.finish())
    }
}

impl SmoothQuant {
    /// The scale of each column; `None` if no reader is quantized.
    fn scales(&self, editor: &Editor, fold: &Fold) -> Result<Option<Vec<f32>>> {
        let block = editor.block();
        let quantized = |reader: &usize| block.linears[*reader].scheme.is_some();
        let readers: Vec<usize> = fold.readers.iter().copied().filter(quantized).collect();
        if readers.is_empty() {
            return Ok(None);
        }
        let (mut x, mut w) = (vec![0f32; fold.columns.len()], vec![0f32; fold.columns.len()]);
        for reader in readers {
            let largest = |max: &mut f32, value: &f32| *max = max.max(value.abs());
            let input = block.input(&block.linears[reader])?;
            x.iter_mut().zip(&input.absmax).for_each(|(max, value)| largest(max, value));
            for row in editor.weight(reader)?.rows() {
                w.iter_mut().zip(row).for_each(|(max, value)| largest(max, value));
            }
        }
        let (x, w) = (shared_max(&fold.columns, &x), shared_max(&fold.columns, &w));
        Ok(Some(x.iter().zip(&w).map(|(&x, &w)| self.scale(x, w)).collect()))
    }

    /// x^α / w^(1−α); 1 if either is zero (nothing to move), or if no f32 holds the scale.
    fn scale(&self, x: f32, w: f32) -> f32 {
        let scale = x.powf(self.alpha) / w.powf(1.0 - self.alpha);
        if x > 0.0 && w > 0.0 && scale.is_normal() { scale } else { 1.0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::NormPlace;
    use crate::numerics::Weight;
    use crate::numerics::{Granularity, ScaleType, Scheme};
    use crate::stage::{BlockLinear, Norm};
    use crate::statistics::Statistics;
    use ndarray::array;

    fn block() -> Block {
        let scheme = Scheme::int(8, Granularity::Channel, true, ScaleType::F32);
        let weight = Weight::Dense(array![[1.0, 4.0, 0.0], [-0.5, 2.0, 0.0]]);
        let linear = BlockLinear { input: Some(0), ..BlockLinear::new("up.weight", scheme, weight) };
        let norm =
            Norm { place: NormPlace::default(), weight: vec![2.0, 3.0, 5.0], bias: Some(vec![1.0; 3]) };
        let fold = Fold { feeder: Feeder::Norm(0), readers: vec![0], columns: vec![0, 1, 2], head_dim: None };
        let inputs = vec![Statistics { tokens: 1, absmax: vec![4.0, 1.0, 9.0], ..Statistics::default() }];
        Block { linears: vec![linear], norms: vec![norm], folds: vec![fold], inputs, ..Block::default() }
    }

    /// √(4/1) = 2, √(1/4) = ½; the third column has no weights to take anything.
    #[test]
    fn scales_are_the_ratio_of_the_largest() {
        let mut block = block();
        let edits = SmoothQuant::default().rewrite(&block).unwrap();
        block.edit(edits);
        let smoothed = array![[2.0, 2.0, 0.0], [-1.0, 1.0, 0.0]];
        assert_eq!(block.linears[0].dense().unwrap(), smoothed);
        assert_eq!(block.norms[0].weight, [1.0, 6.0, 5.0]);
        assert_eq!(block.norms[0].bias, Some(vec![0.5, 2.0, 1.0]));
        assert!(block.inputs.is_empty() && block.linears[0].input.is_none());
    }

    #[test]
    fn an_alpha_beyond_its_range_is_refused() {
        let error = (DEF.build)(&"alpha = 1.5".parse().unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn without_calibration_it_says_what_is_missing() {
        let mut block = block();
        block.linears[0].input = None;
        let error = SmoothQuant::default().rewrite(&block).unwrap_err();
        assert!(error.to_string().contains("up.weight"), "{error}");
    }
}
