//! Channels, heads and columns of the residual stream. The blocks before have lost theirs already: a block is measured on what
//! they make of the calibration set.

use serde::{Deserialize, Serialize};

use super::weights::{weights_bytes, weights_file};
use super::work::Work;
use crate::calib::observe::Watch;
use crate::error::{Error, Result};
use crate::model::{Feeder, LinearPlace, Mixer, Network, TensorRole, Weights};
use crate::numerics::Weight;
use crate::pipeline::blocks::{Chain, Fitted};
use crate::prune::width::narrow;
use crate::recipe::{Kept, Surgery};
use crate::stage::{Block, BlockLinear, Width};
use crate::statistics::Needs;

/// The parts of a block that stay.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct BlockKept {
    kv_heads: Kept,
    channels: Kept,
    /// Of each expert.
    expert_channels: Vec<Kept>,
}

impl Work<'_> {
    /// Takes heads and channels out of each block, as many as `outline` does.
    pub(super) fn narrow(&self, width: &Width, outline: &Surgery) -> Result<Surgery> {
        // Only what is cut is recorded as corrected.
        let cuts_last = outline.channels.iter().any(|kept| !kept.numbers().is_empty());
        let follows = width.correct
            && cuts_last
            && self.runner.layouts.iter().any(|block| block.last_writer().is_some());
        let blocks = self.each_block(follows, |index, inputs, outputs, files| {
            // Its new weights, zero where columns go.
            let mut block = Block { index, ..Block::default() };
            let mut kept = BlockKept::default();
            let input = &inputs[0];
            if let Some(heads) = outline.kv_heads.get(index) {
                let Mixer::Attention(attention) = &self.runner.model.layers[index].mixer;
                let size = attention.heads / attention.kv_heads * attention.head_dim;
                let role = TensorRole::AttentionOutput;
                let found = self.narrow_linears(&mut block, width, role, size, heads, input)?;
                kept.kv_heads = found.into_iter().next().unwrap_or_default();
            }
            if let ([_, reference], [_, target]) = (inputs, outputs) {
                self.runner.pass(index, &self.runner.weights(), reference, None, Some(target))?;
                self.follow(&mut block, input, target)?;
            }
            if let Some(channels) = outline.channels.get(index).filter(|kept| !kept.numbers().is_empty()) {
                let role = TensorRole::Down(Network::Dense);
                let found = self.narrow_linears(&mut block, width, role, 1, channels, input)?;
                kept.channels = found.into_iter().next().unwrap_or_default();
            }
            if let Some(channels) = outline.expert_channels.get(index).and_then(|experts| experts.first()) {
                let role = TensorRole::Down(Network::Expert);
                kept.expert_channels = self.narrow_linears(&mut block, width, role, 1, channels, input)?;
            }
            let weights = self.runner.weights().with(&block, true);
            self.runner.pass(index, &weights, input, None, Some(&outputs[0]))?;
            if width.correct {
                let digest = self.workspace.write(&weights_file(index), &weights_bytes(&block.linears)?)?;
                files.insert(weights_file(index), digest);
            }
            Ok(kept)
        })?;
        let of = |kept: fn(&BlockKept) -> &Kept, outline: &[Kept]| {
            blocks.iter().map(kept).take(outline.len()).cloned().collect()
        };
        let expert_channels = blocks.iter().map(|block| block.expert_channels.clone());
        Ok(Surgery {
            kv_heads: of(|block| &block.kv_heads, &outline.kv_heads),
            channels: of(|block| &block.channels, &outline.channels),
            expert_channels: expert_channels.take(outline.expert_channels.len()).collect(),
            ..Surgery::default()
        })
    }

    /// Fits the last linear of a block to the original model's states, where that can be.
    fn follow(&self, block: &mut Block, input: &Chain, target: &Chain) -> Result<()> {
        let Some(last) = self.runner.layouts[block.index].last_writer() else { return Ok(()) };
        let weights = self.runner.weights().with(block, true);
        let Fitted { weight, .. } = self.runner.fit(block.index, &weights, last, input, target)?;
        block.linears.push(BlockLinear::dense_only(&last.name, Weight::Dense(weight)));
        Ok(())
    }

    /// Takes columns out of the linears of a role, of each as many groups of `size` as `outline` does, on what the block makes of
    /// their inputs so far.
    fn narrow_linears(
        &self,
        block: &mut Block,
        width: &Width,
        role: TensorRole,
        size: usize,
        outline: &Kept,
        input: &Chain,
    ) -> Result<Vec<Kept>> {
        let (index, keep) = (block.index, outline.numbers().len());
        let weights = self.runner.weights().with(block, true);
        let needs = Needs { hessian: true, ..Needs::default() };
        let places = self.linears(index, role)?;
        let depth = places.first().map(|place| place.depth);
        let watch = Watch { needs, depth, ..Watch::default() };
        let seen = self.runner.gather(index, &weights, input, watch, None)?.seen;
        let mut kept = Vec::new();
        for place in places {
            let hessian = seen.inputs[place.input].as_ref().and_then(|statistics| statistics.hessian());
            let hessian = hessian.ok_or_else(|| not_reached(&place.name))?;
            let matrix = weights.matrix(&place.name)?;
            let weight = place.turned(matrix.read(0..matrix.shape()[0])?.into_values());
            matrix.release();
            let narrowed = narrow(weight.view(), &hessian, size, keep, width, &place.name)?;
            let weight = Weight::Dense(place.turned(narrowed.weight));
            block.linears.retain(|linear| linear.name != place.name);
            block.linears.push(BlockLinear::dense_only(&place.name, weight));
            kept.push(narrowed.kept);
        }
        Ok(kept)
    }

    /// The linears of a role in a block: one, or one of each expert.
    fn linears(&self, index: usize, role: TensorRole) -> Result<Vec<&LinearPlace>> {
        let linears = self.runner.layouts[index].linears.iter();
        let has_role =
            |linear: &&LinearPlace| self.arch.loaded(&linear.name).is_some_and(|it| it.role == role);
        let found: Vec<&LinearPlace> = linears.filter(has_role).collect();
        if found.is_empty() { Err(not_reached(&format!("block {index}: its {role:?}"))) } else { Ok(found) }
    }

    /// The columns of the residual stream with the largest outputs of norms.
    pub(super) fn narrow_stream(&self, keep: usize) -> Result<Surgery> {
        let blocks: Vec<Vec<f64>> = self.each_block(false, |index, input, output, _| {
            let watch = Watch { needs: Needs { mean_abs: true, ..Needs::default() }, ..Watch::default() };
            let weights = self.runner.weights();
            let seen = self.runner.gather(index, &weights, &input[0], watch, Some(&output[0]))?.seen;
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

fn not_reached(what: &str) -> Error {
    Error::unsupported(format!("{what} was not reached by any token"), "leave this part of the model whole")
}
