//! `mse`: the range that leaves the least squared error.
//!
//! **What.** For each group, the min-max scale is multiplied by a row of ratios, and the one whose rounded values lie
//! nearest to the weights wins: argmin over r of Σ h·(w − dequantize(quantize(w; r·s)))², h being the importance of the
//! column where calibration gave one, else 1. Zero points stay: shrinking both ends of a range by one ratio leaves its
//! zero point where it was. The ratios go from 1.1 down to 0.25 by 0.05, then around the best by 0.025 and 0.0125; powers of
//! two halve and double. FP4 also tries more than 1, which puts the largest weight on 4 rather than on 6 where the rest of
//! the group gains. 1 is among them, so that no group is ever worse than `rtn`. GGUF block types run llama.cpp's scale
//! search with uniform weights, and each block keeps the better of that and of `rtn`'s.
//!
//! **Why.** Min-max spends codes on the one weight at the edge; giving that one up makes every other step finer.
//!
//! **When.** 4 bits and fewer, and FP4. At 8 bits there is nothing to gain.
//!
//! **Cost.** 6 to 12 ns per weight and core for integers, 24 for FP8, 51 for NVFP4, 146 for NF4 (whose codes are found by
//! comparison); no data. Σe² relative to `rtn` over MiniLM's layers: w2a16 0.60, w3a16 0.66, w4a16 0.83, w4a16-asym 0.89,
//! w8a16 0.98, NVFP4 0.74, NF4 0.87, MXFP4 0.99; 4 bits per channel 0.66.
//!
//! ```text
//! llmc quantize --scheme w4a16 --method mse model/
//! ```
//!
//! References: Choukroun et al. 2019, "Low-bit Quantization of Neural Networks for Efficient Inference" (OMSE),
//! <https://arxiv.org/abs/1902.06822>; GPTQ's quantizer searches the same way, by a 2.4-norm over 80 ratios down to 0.2
//! (<https://github.com/IST-DASLab/gptq>, `quant.py`); FP4's ratios above 1: Cook et al. 2025, "Four Over Six",
//! <https://arxiv.org/abs/2512.02010>.

use std::sync::Arc;

use ndarray::{ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::numerics::{Context, Granularity, Grid, Number, QTensor, ScaleType, Scheme, ggml};
use crate::stage::{self, Block, BlockLinear, Def, Quantization, Quantize, Stage};
use crate::tensor::BlockType;

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "mse",
    summary: "clip each group's range where that leaves less squared error: no data, about 5 times the time of rtn",
    supports,
    build: |table| Ok(Stage::Quantize(Arc::new(stage::parse::<Mse>("mse", table)?))),
};

fn supports(scheme: &Scheme) -> Result<(), &'static str> {
    match scheme.granularity {
        Granularity::Tensor => {
            Err("mse looks for the scale of one group at a time, and this scheme has one for the \
                                    whole tensor: use rtn, or scales per channel or group")
        }
        _ => Ok(()),
    }
}

/// Clip search by squared error. It has no parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mse {}

impl Quantize for Mse {
    fn weighs_columns(&self, _scheme: &Scheme) -> bool {
        true
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        Quantization::of_each(block, |linear, scheme| quantize(linear, &scheme))
    }
}

fn quantize(linear: &BlockLinear, scheme: &Scheme) -> Result<QTensor> {
    let (w, context) = (linear.dense()?, linear.context());
    Ok(match scheme.number {
        Number::Ggml(block) => quantize_blocks(block, w, &context),
        _ => scheme.round(w, search(scheme, w, &context), &context),
    })
}

/// Weights searched at a time: they stay in the second-level cache for all candidates.
const IN_CACHE: usize = 1 << 15;

/// The grid of least squared error among the candidates, entry by entry.
pub(crate) fn search(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
    let rows = (IN_CACHE / w.ncols().max(1)).max(1).next_multiple_of(scheme.row_multiple());
    let mut found = Grid::default();
    for rows in w.axis_chunks_iter(Axis(0), rows) {
        let grid = Search::new(scheme, rows, context).run();
        found.scales.extend(grid.scales);
        found.zero_points.extend(grid.zero_points);
        found.global_scale = grid.global_scale;
    }
    found
}

/// The best grid so far of rows that are searched together.
struct Search<'a> {
    scheme: &'a Scheme,
    w: ArrayView2<'a, f32>,
    context: &'a Context<'a>,
    /// Min-max scales, which ratios multiply.
    start: Vec<f32>,
    best: Grid,
    ratios: Vec<f32>,
    errors: Vec<f32>,
}

impl<'a> Search<'a> {
    fn new(scheme: &'a Scheme, w: ArrayView2<'a, f32>, context: &'a Context<'a>) -> Search<'a> {
        let best = scheme.fit(w, context);
        let errors = scheme.squared_errors(w, &best, context);
        let ratios = vec![1.0; errors.len()];
        Search { scheme, w, context, start: best.scales.clone(), best, ratios, errors }
    }

    fn run(mut self) -> Grid {
        for ratio in coarse(self.scheme) {
            self.attempt(|_| ratio);
        }
        if self.scheme.scale != ScaleType::E8M0 {
            for step in [0.025, 0.0125] {
                let around = self.ratios.clone();
                self.attempt(|entry| around[entry] - step);
                self.attempt(|entry| around[entry] + step);
            }
        }
        self.best
    }

    /// Tries min-max scales times a ratio, and keeps what is strictly better.
    fn attempt(&mut self, ratio: impl Fn(usize) -> f32) {
        let scaled = |(entry, &scale): (usize, &f32)| self.scheme.scale.nearest(scale * ratio(entry));
        let scales: Vec<f32> = self.start.iter().enumerate().map(scaled).collect();
        let Grid { zero_points, global_scale, .. } = &self.best;
        let candidate = Grid { scales, zero_points: zero_points.clone(), global_scale: *global_scale };
        let errors = self.scheme.squared_errors(self.w, &candidate, self.context);
        for (entry, error) in errors.into_iter().enumerate() {
            if error < self.errors[entry] {
                self.errors[entry] = error;
                self.ratios[entry] = ratio(entry);
                self.best.scales[entry] = candidate.scales[entry];
            }
        }
    }
}

/// Ratios tried for every group, besides 1.
fn coarse(scheme: &Scheme) -> Vec<f32> {
    let by_twentieths =
        |range: std::ops::RangeInclusive<u8>| range.map(|n| f32::from(n) / 20.0).filter(|&r| r != 1.0);
    match (scheme.scale, scheme.number) {
        (ScaleType::E8M0, _) => vec![0.5, 2.0],
        (_, Number::Fp4) => by_twentieths(10..=32).collect(),
        _ => by_twentieths(5..=22).collect(),
    }
}

/// GGUF blocks: the weighted search under uniform importance, against what `rtn` makes.
fn quantize_blocks(block: BlockType, w: ArrayView2<f32>, context: &Context) -> QTensor {
    let plain = ggml::quantize(block, w, context.importance);
    let uniform = vec![1.0; w.ncols()];
    let mut searched = ggml::quantize(block, w, context.importance.or(Some(&uniform)));
    let [ours, theirs] = [&searched, &plain].map(|blocks| block_errors(block, blocks, w, context));
    let size = block.block_bytes();
    let blocks = searched.chunks_exact_mut(size).zip(plain.chunks_exact(size));
    for ((ours, theirs), (block, plain)) in ours.iter().zip(theirs).zip(blocks) {
        if theirs < *ours {
            block.copy_from_slice(plain);
        }
    }
    QTensor::blocks(block, [w.nrows(), w.ncols()], searched)
}

/// Returns the (weighted) squared error of each block.
fn block_errors(block: BlockType, blocks: &[u8], w: ArrayView2<f32>, context: &Context) -> Vec<f32> {
    let mut values = vec![0.0; w.len()];
    ggml::dequantize(block, blocks, &mut values);
    let weight = |i: usize| context.importance.map_or(1.0, |importance| importance[i % w.ncols()]);
    let errors = values.iter().zip(&w).enumerate().map(|(i, (a, b))| (a - b) * (a - b) * weight(i));
    let errors: Vec<f32> = errors.collect();
    errors.chunks(block.block_elements()).map(|block| block.iter().sum()).collect()
}
