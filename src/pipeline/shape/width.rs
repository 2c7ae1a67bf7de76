//! Channels, heads and columns of the residual stream. The blocks before have lost theirs already: a block is measured on what
//! they make of the calibration set.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::weights::{weights_bytes, weights_file};
use super::work::Work;
use crate::calib::observe::Watch;
use crate::error::{Error, Result};
use crate::model::{Feeder, Fold, LinearPlace, Mixer, Weights};
use crate::numerics::Weight;
use crate::pipeline::blocks::Chain;
use crate::prune::width::{NarrowedLinear, narrow};
use crate::recipe::{Kept, Surgery};
use crate::stage::{Block, BlockLinear, Width};
use crate::statistics::Needs;

/// What stays of a block.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct BlockKept {
    kv_heads: Kept,
    channels: Kept,
    /// blake3 of the file of its corrected weights.
    corrected: String,
}

impl Work<'_> {
    /// Takes heads and channels out of each block, as many as `outline` does.
    pub(super) fn narrow(&self, width: &Width, outline: &Surgery) -> Result<Surgery> {
        let blocks = self.each_block(|index, input, output| {
            let mut narrowed =
                Narrowed { block: Block { index, ..Block::default() }, kept: BlockKept::default() };
            if let Some(heads) = outline.kv_heads.get(index) {
                narrowed.kept.kv_heads =
                    self.narrow_heads(&mut narrowed, width, heads.numbers().len(), input)?;
            }
            if let Some(channels) = outline.channels.get(index) {
                narrowed.kept.channels =
                    self.narrow_channels(&mut narrowed, width, channels.numbers().len(), input)?;
            }
            let weights = self.runner.weights().with(&narrowed.block, true);
            self.runner.pass(index, &weights, input, None, Some(output))?;
            if width.correct {
                let bytes = weights_bytes(&narrowed.weights())?;
                narrowed.kept.corrected = self.workspace.write(&weights_file(index), &bytes)?;
            }
            Ok(narrowed.kept)
        })?;
        let of = |kept: fn(&BlockKept) -> &Kept, is_cut: bool| match is_cut {
            true => blocks.iter().map(|block| kept(block).clone()).collect(),
            false => Vec::new(),
        };
        Ok(Surgery {
            kv_heads: of(|block| &block.kv_heads, !outline.kv_heads.is_empty()),
            channels: of(|block| &block.channels, !outline.channels.is_empty()),
            ..Surgery::default()
        })
    }

    fn narrow_heads(
        &self,
        narrowed: &mut Narrowed,
        width: &Width,
        keep: usize,
        input: &Chain,
    ) -> Result<Kept> {
        let index = narrowed.block.index;
        let Mixer::Attention(attention) = &self.runner.model.layers[index].mixer;
        let size = attention.heads / attention.kv_heads * attention.head_dim;
        let place = self.reader(index, |fold| fold.head_dim.is_some());
        let place =
            place.or_else(|| self.last_of_mixer(index)).ok_or_else(|| no_linear(index, "attention"))?;
        self.narrow_linear(narrowed, width, place, size, keep, input)
    }

    fn narrow_channels(
        &self,
        narrowed: &mut Narrowed,
        width: &Width,
        keep: usize,
        input: &Chain,
    ) -> Result<Kept> {
        let index = narrowed.block.index;
        let is_down = |fold: &Fold| fold.head_dim.is_none() && matches!(fold.feeder, Feeder::Linear(_));
        let place = self.reader(index, is_down).or_else(|| self.runner.layouts[index].linears.last());
        let place = place.ok_or_else(|| no_linear(index, "feed-forward network"))?;
        self.narrow_linear(narrowed, width, place, 1, keep, input)
    }

    /// Takes columns out of one linear, on what the block makes of its inputs so far.
    fn narrow_linear(
        &self,
        narrowed: &mut Narrowed,
        width: &Width,
        place: &LinearPlace,
        size: usize,
        keep: usize,
        input: &Chain,
    ) -> Result<Kept> {
        let index = narrowed.block.index;
        let weights = self.runner.weights().with(&narrowed.block, true);
        let needs = Needs { hessian: true, ..Needs::default() };
        let watch = Watch { needs, depth: Some(place.depth), ..Watch::default() };
        let seen = self.runner.gather(index, &weights, input, watch, None)?.seen;
        let hessian = seen.inputs[place.input].as_ref().and_then(|statistics| statistics.hessian());
        let hessian = hessian.ok_or_else(|| no_linear(index, &place.name))?;
        let matrix = weights.matrix(&place.name)?;
        let weight = matrix.read(0..matrix.shape()[0])?.into_values();
        matrix.release();
        let NarrowedLinear { kept, weight } =
            narrow(weight.view(), &hessian, size, keep, width, &place.name)?;
        narrowed.block.linears.push(BlockLinear::dense_only(&place.name, Weight::Dense(weight)));
        Ok(kept)
    }

    /// The linear that reads the outputs of a fold.
    fn reader(&self, index: usize, is_it: impl Fn(&Fold) -> bool) -> Option<&LinearPlace> {
        let layout = &self.runner.layouts[index];
        let fold = layout.folds.iter().find(|fold| is_it(fold))?;
        fold.readers.first().map(|reader| &layout.linears[*reader])
    }

    /// The linear behind attention, where no scale passes through the values.
    fn last_of_mixer(&self, index: usize) -> Option<&LinearPlace> {
        let Mixer::Attention(attention) = &self.runner.model.layers[index].mixer;
        let end = attention.output.rsplit('.').next().unwrap_or_default();
        let suffix = format!(".{end}.weight");
        self.runner.layouts[index]
            .linears
            .iter()
            .find(|linear| linear.depth == 1 && linear.name.ends_with(&suffix))
    }

    /// The columns of the residual stream with the largest outputs of norms.
    pub(super) fn narrow_stream(&self, keep: usize) -> Result<Surgery> {
        let blocks: Vec<Vec<f64>> = self.each_block(|index, input, output| {
            let watch = Watch { needs: Needs { mean_abs: true, ..Needs::default() }, ..Watch::default() };
            let weights = self.runner.weights();
            let seen = self.runner.gather(index, &weights, input, watch, Some(output))?.seen;
            let layout = &self.runner.layouts[index];
            let mut sums = vec![0.0; self.runner.model.hidden];
            for fold in layout.folds.iter().filter(|fold| matches!(fold.feeder, Feeder::Norm(_))) {
                let reader = fold.readers.first().map(|reader| layout.linears[*reader].input);
                let Some(statistics) = reader.and_then(|input| seen.inputs[input].as_ref()) else { continue };
                let tokens = statistics.tokens.max(1) as f64;
                sums.iter_mut().zip(&statistics.sum_abs).for_each(|(sum, abs)| *sum += abs / tokens);
            }
            // As f32: JSON gives it back to the bit.
            Ok(sums.into_iter().map(|sum| f64::from(sum as f32)).collect())
        })?;
        let mut totals = vec![0.0; self.runner.model.hidden];
        blocks.iter().for_each(|sums| totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum));
        let mut order: Vec<u32> = (0..totals.len() as u32).collect();
        order.sort_by(|a, b| totals[*b as usize].total_cmp(&totals[*a as usize]));
        let hidden = Some(Kept::new(order.into_iter().take(keep)));
        Ok(Surgery { hidden, ..Surgery::default() })
    }
}

fn no_linear(index: usize, what: &str) -> Error {
    Error::unsupported(
        format!("block {index}: no linear behind its {what} was reached"),
        "leave this part of the model whole",
    )
}

/// A block in work.
struct Narrowed {
    /// Its new weights, zero where columns go.
    block: Block,
    kept: BlockKept,
}

impl Narrowed {
    fn weights(&self) -> Vec<(String, &Array2<f32>)> {
        let dense = self.block.linears.iter().filter_map(|linear| match &linear.weight {
            Weight::Dense(values) => Some((linear.name.clone(), values)),
            Weight::Quantized(_) => None,
        });
        dense.collect()
    }
}
