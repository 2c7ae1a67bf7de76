//! `awq`: scales that spare the columns with large inputs, then a clip search.
//!
//! **What.** Column j of the linears that read an input is multiplied by s_j before rounding, and the norm or linear that
//! makes the input divided by it, so that the model computes the same and the weights that meet large inputs are rounded
//! more finely. s = x̄^α / w̄^(1−α), normalized by √(max s · min s): x̄_j is the mean |x_j|, w̄_j the mean of |w_j| relative to
//! the largest of its group (`duo_scaling`; without, s = x̄^α). α is the one of `n_grid` steps that leaves the least error
//! of the outputs,
//!
//! ```text
//! argmin over α of Σ tr(ΔW·H·ΔWᵀ),  ΔW = Q(W·diag(s))·diag(s)⁻¹ − W,  H = Σ xᵀx
//! ```
//!
//! over the linears of the input that are to be quantized: exact on the calibration set, without its activations. If no
//! scale beats s = 1, nothing is scaled. Then each group is clipped as `mse` does, weighted by H's diagonal, and rounded.
//!
//! Pairs are those of the architecture: norm → q/k/v, v → o (one scale for the columns that a key-value head serves),
//! norm → gate/up and router, up → down. `awq-scale` moves the scales and leaves the weights dense, for another method.
//!
//! **Why.** A hundredth of the columns carries most of the output; only calibration shows which ones.
//!
//! **When.** 3 and 4 bits, in groups, if `gptq` takes too long; `awq-scale` also helps before `gptq`.
//!
//! **Cost.** rows·cols² multiplications per linear and step of α; a Hessian per input.
//!
//! ```text
//! llmc quantize --scheme w4a16-asym --method awq --data calibration.txt model/
//! ```
//!
//! Reference: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
//! <https://arxiv.org/abs/2306.00978>; duo scaling: <https://github.com/casper-hansen/AutoAWQ>, `awq/quantize/quantizer.py`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::mse;
use super::scaling::{divided, scale, shared_mean};
use crate::error::{Error, Result, within};
use crate::model::Fold;
use crate::numerics::{Context, Extent, Number, QTensor, Scheme, linalg};
use crate::stage::{
    self, Block, BlockLinear, Def, Editor, Edits, PerInput, Quantization, Quantize, QuantizedLinear, Rewrite,
    Scope, Stage, relative_error,
};
use crate::statistics::{Needs, Statistics};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "awq",
    summary: "scale columns by the size of their inputs, clip, round: calibration, minutes per billion weights",
    supports,
    build: |table| {
        let method: Awq = stage::parse("awq", table)?;
        within("awq: n_grid", method.n_grid, N_GRID)?;
        Ok(Stage::Quantize(Arc::new(method)))
    },
};

/// Steps of α: each is a product of all the block's linears.
const N_GRID: RangeInclusive<usize> = 1..=1000;

/// Registry entry of the scales alone.
pub const SCALE: Def = Def {
    name: "awq-scale",
    summary: "awq's scales alone, for another method to round: the model computes the same",
    supports: |_| Ok(()),
    build: |table| {
        let method: AwqScale = stage::parse("awq-scale", table)?;
        within("awq-scale: n_grid", method.n_grid, N_GRID)?;
        Ok(Stage::Rewrite(Arc::new(method)))
    },
};

fn supports(scheme: &Scheme) -> Result<(), &'static str> {
    match scheme.needs_extent() {
        true => Err(
            "awq changes the range of whole tensors, which this scheme must know before: use rtn or mse, or \
                     scales per channel or group",
        ),
        false => Ok(()),
    }
}

/// Scale search, clip search, rounding.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Awq {
    /// Steps of α between 0 and 1.
    pub n_grid: usize,
    /// True to favour small weights too.
    pub duo_scaling: bool,
    /// True to clip groups.
    pub clip: bool,
}

impl Default for Awq {
    fn default() -> Self {
        let AwqScale { n_grid, duo_scaling } = AwqScale::default();
        Awq { n_grid, duo_scaling, clip: true }
    }
}

/// Scale search alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AwqScale {
    /// Steps of α between 0 and 1.
    pub n_grid: usize,
    /// True to favour small weights too.
    pub duo_scaling: bool,
}

impl Default for AwqScale {
    fn default() -> Self {
        AwqScale { n_grid: 20, duo_scaling: true }
    }
}

const NEEDS: Needs = Needs { absmax: false, mean_abs: true, second_moment: false, hessian: true };

impl Quantize for Awq {
    fn needs(&self) -> Needs {
        NEEDS
    }

    fn scope(&self) -> Scope {
        Scope::Block
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        let mut editor = Editor::new(block);
        let scales = AwqScale { n_grid: self.n_grid, duo_scaling: self.duo_scaling }.scale(&mut editor)?;
        let mut inputs = PerInput::new();
        let mut codes = Vec::new();
        for (index, linear) in block.linears.iter().enumerate() {
            let Some(scheme) = linear.scheme else {
                codes.push(None);
                continue;
            };
            let input = inputs.of(linear, || scaled_input(block, linear, &scales))?;
            let w = editor.weight(index)?;
            let values = self.round(linear, w, &scheme, input)?;
            let error = relative_error(w, values.values().view(), Some(input));
            codes.push(Some(QuantizedLinear { values, relative_error: Some(error) }));
        }
        Ok(Quantization { codes, edits: editor.finish() })
    }
}

impl Awq {
    /// Clips groups if that leaves less error, and rounds.
    fn round(
        &self,
        linear: &BlockLinear,
        w: ArrayView2<f32>,
        scheme: &Scheme,
        input: &Statistics,
    ) -> Result<QTensor> {
        let tokens = input.tokens.max(1) as f32;
        let importance = gram(linear, input)?.diag().mapv(|sum| sum / tokens).to_vec();
        let context = Context { importance: Some(&importance), ..linear.context() };
        let searched = self.clip && !matches!(scheme.number, Number::Ggml(_));
        let grid = if searched { mse::search(scheme, w, &context) } else { scheme.fit(w, &context) };
        Ok(scheme.round(w, grid, &context))
    }
}

impl Rewrite for AwqScale {
    fn needs(&self) -> Needs {
        NEEDS
    }

    fn rewrite(&self, block: &Block) -> Result<Edits> {
        let mut editor = Editor::new(block);
        self.scale(&mut editor)?;
        Ok(editor.finish())
    }
}

/// The statistics of a linear's input, divided by the scales of its columns.
fn scaled_input<'a>(
    block: &'a Block,
    linear: &BlockLinear,
    scales: &HashMap<usize, Vec<f32>>,
) -> Result<Cow<'a, Statistics>> {
    let statistics = block.input(linear)?;
    Ok(match linear.input.and_then(|input| scales.get(&input)) {
        Some(scales) => Cow::Owned(divided(statistics, scales)),
        None => Cow::Borrowed(statistics),
    })
}

fn gram<'a>(linear: &BlockLinear, input: &'a Statistics) -> Result<&'a Array2<f32>> {
    input.gram.as_ref().ok_or_else(|| {
        let what = format!("{}: the Hessian of its inputs was not gathered", linear.name);
        Error::unsupported(what, "calibrate with the statistics that awq needs")
    })
}

/// A linear whose outputs should stay the same.
struct Reader<'a> {
    linear: &'a BlockLinear,
    w: ArrayView2<'a, f32>,
    scheme: Scheme,
    input: &'a Statistics,
    /// Σ xᵀx, [cols, cols].
    gram: &'a Array2<f32>,
}

impl<'a> Reader<'a> {
    /// `None` for linears that stay dense.
    fn new(editor: &'a Editor, linear: usize) -> Result<Option<Reader<'a>>> {
        let (w, block) = (editor.weight(linear)?, editor.block());
        let linear = &block.linears[linear];
        let Some(scheme) = linear.scheme else { return Ok(None) };
        let input = block.input(linear)?;
        Ok(Some(Reader { linear, w, scheme, input, gram: gram(linear, input)? }))
    }
}

impl AwqScale {
    /// Moves scales through every fold that gains by them. Returns the scales of the columns by the number of the input.
    fn scale(&self, editor: &mut Editor) -> Result<HashMap<usize, Vec<f32>>> {
        let mut by_input = HashMap::new();
        for fold in &editor.block().folds {
            let Some(scales) = self.search(editor, fold)? else { continue };
            scale(editor, fold, &scales)?;
            let inputs = fold.readers.iter().filter_map(|&reader| editor.block().linears[reader].input);
            by_input.extend(inputs.map(|input| (input, scales.clone())));
        }
        Ok(by_input)
    }

    /// The scale of every column of a fold's readers; `None` if no scale reduces the error.
    fn search(&self, editor: &Editor, fold: &Fold) -> Result<Option<Vec<f32>>> {
        let readers = fold.readers.iter().map(|&reader| Reader::new(editor, reader));
        let readers: Vec<Reader> = readers.filter_map(Result::transpose).collect::<Result<_>>()?;
        if readers.is_empty() {
            return Ok(None);
        }
        let x = shared_mean(&fold.columns, &input_size(&readers));
        let w = shared_mean(&fold.columns, &weight_size(&readers));
        let mut least = error(&readers, &vec![1.0; x.len()])?;
        let mut best = None;
        for step in 0..=self.n_grid {
            let scales = self.scales(&x, &w, step as f32 / self.n_grid.max(1) as f32);
            let error = error(&readers, &scales)?;
            if error < least {
                (least, best) = (error, Some(scales));
            }
        }
        Ok(best)
    }

    /// x^α / w^(1−α), normalized by √(max · min).
    fn scales(&self, x: &[f32], w: &[f32], alpha: f32) -> Vec<f32> {
        let favoured = |w: f32| if self.duo_scaling { w.powf(1.0 - alpha) + 1e-4 } else { 1.0 };
        let scales: Vec<f32> =
            x.iter().zip(w).map(|(&x, &w)| (x.powf(alpha) / favoured(w)).max(1e-4)).collect();
        let extremes = scales.iter().fold((f32::MAX, 0f32), |(min, max), &s| (min.min(s), max.max(s)));
        let middle = (extremes.0 * extremes.1).sqrt();
        scales.into_iter().map(|s| s / middle).collect()
    }
}

/// The mean |x| of each column relative to the mean of all, over the readers' inputs; 1 for columns that were always zero.
/// \[cols\].
fn input_size(readers: &[Reader]) -> Vec<f32> {
    let mut sums = vec![0f64; readers[0].w.ncols()];
    for reader in readers {
        sums.iter_mut().zip(&reader.input.sum_abs).for_each(|(sum, x)| *sum += x);
    }
    let mean = sums.iter().sum::<f64>() / sums.len().max(1) as f64;
    sums.into_iter().map(|sum| if sum > 0.0 { (sum / mean) as f32 } else { 1.0 }).collect()
}

/// The mean |w| of each column relative to the largest of its group. \[cols\].
fn weight_size(readers: &[Reader]) -> Vec<f32> {
    let mut sums = vec![0f64; readers[0].w.ncols()];
    for Reader { w, scheme, .. } in readers {
        let width = scheme.width(w.ncols());
        for row in w.rows() {
            for start in (0..row.len()).step_by(width) {
                let group = row.slice(s![start..row.len().min(start + width)]);
                let largest = group.iter().fold(f32::MIN_POSITIVE, |max, w| max.max(w.abs()));
                sums[start..].iter_mut().zip(group).for_each(|(sum, w)| *sum += f64::from(w.abs() / largest));
            }
        }
    }
    let rows: usize = readers.iter().map(|reader| reader.w.nrows()).sum();
    sums.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}

/// Rows of a linear that one task rounds.
const TILE: usize = 128;

/// Σ tr(ΔW·H·ΔWᵀ) over the readers.
fn error(readers: &[Reader], scales: &[f32]) -> Result<f64> {
    readers.iter().map(|reader| reader_error(reader, scales)).sum()
}

fn reader_error(reader: &Reader, scales: &[f32]) -> Result<f64> {
    let Reader { linear, w, scheme, gram, .. } = reader;
    let importance = linear.importance.as_ref();
    let importance: Option<Vec<f32>> =
        importance.map(|values| values.iter().zip(scales).map(|(value, s)| value / (s * s)).collect());
    let context = Context { extent: None, importance: importance.as_deref() };
    let tile = TILE.next_multiple_of(scheme.row_multiple());
    let starts: Vec<usize> = (0..w.nrows()).step_by(tile).collect();
    let tile_error = |&start: &usize| {
        let rows = w.slice(s![start..w.nrows().min(start + tile), ..]);
        linalg::quadratic(rounding_error(rows, scheme, scales, &context).view(), gram.view())
    };
    let errors: Vec<f64> = starts.par_iter().map(tile_error).collect();
    let sum: f64 = errors.iter().sum();
    if sum.is_finite() {
        return Ok(sum);
    }
    let what = format!("{}: the statistics of its inputs, or its weights, are not finite", linear.name);
    Err(Error::unsupported(what, "look for NaN in the model and for activations that overflow"))
}

/// Q(w·diag(s))·diag(s)⁻¹ − w, [rows, cols].
fn rounding_error(w: ArrayView2<f32>, scheme: &Scheme, scales: &[f32], context: &Context) -> Array2<f32> {
    let scales = ndarray::aview1(scales);
    let mut values = vec![0.0; w.len()];
    let scaled = &w * &scales;
    // The extent of a whole tensor changes with the scales.
    let extent = scheme.needs_extent().then(|| Extent::of(&scaled.iter().copied().collect::<Vec<_>>()));
    scheme.quantize(scaled.view(), &Context { extent, ..*context }).dequantize(&mut values);
    let rounded = Array2::from_shape_vec(w.dim(), values).expect("as many values as weights");
    rounded / scales - w
}
