//! The block loop. One decoder block is in memory at a time; its inputs are the outputs of the compressed blocks before it
//! on the calibration set.
//!
//! For each block, the weights are read and the recipe's stages are carried out, with statistics of the inputs that passes
//! over the block gather. The compressed block is run once more to compute the next block's inputs, and its tensors are
//! written. Then the journal records it, and it is dropped from memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::layouts::layouts;
use super::report::BlockReport;
use super::runner::{CalibrationInput, Runner};
use super::scales::Scales;
use super::units::Group;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::numerics::{Scheme, Sparsity};
use crate::pipeline::fault;
use crate::pipeline::options::Options;
use crate::pipeline::output::{Journal, Workspace};
use crate::pipeline::stream::{BlockResult, TensorWriter, unmeasured};
use crate::plan::Plan;
use crate::recipe::PerFormat;
use crate::tensor::DType;

/// The block loop of one run.
pub(crate) struct BlockLoop<'a> {
    pub(super) runner: Runner<'a>,
    /// The scheme of each linear, by the name of its weight, and the number of its fused group: linears with the same number
    /// share their extent.
    pub(super) schemes: HashMap<&'a str, (Scheme, Option<usize>)>,
    /// The zeros of each pruned linear, by the name of its weight.
    pub(super) sparsities: HashMap<&'a str, Sparsity>,
    pub(super) groups: Vec<Group>,
    /// True if the states of the original model go along: stages train for them, or fit to them.
    pub(super) reference: bool,
    /// The scales of activations that outputs store.
    pub(super) scales: Scales,
    /// The model's float type.
    pub(super) dtype: DType,
}

impl<'a> BlockLoop<'a> {
    /// Prepares the loop for the primary output's recipe.
    ///
    /// # Errors
    /// An architecture that llmc does not support.
    pub(crate) fn new(
        writers: &PerFormat<&TensorWriter<'a>>,
        checkpoint: &Arc<Checkpoint>,
        input: CalibrationInput<'a>,
        ends: &'a BlockResult,
        options: &'a Options<'a>,
    ) -> Result<Self> {
        let plan = writers.primary.plan;
        let request = &plan.request;
        let plans: Vec<&Plan> = writers.all().map(|writer| writer.plan).collect();
        let allow_nonfinite = request.recipe.allow_nonfinite;
        let runner = Runner::new(checkpoint, layouts(checkpoint)?, input, ends, allow_nonfinite, options)?;
        let fits = input.prior.is_none() && runner.layouts.iter().any(|block| block.last_writer().is_some());
        Ok(BlockLoop {
            runner,
            schemes: plan.schemes(),
            sparsities: plan.sparsities(),
            groups: Group::all(&request.stages),
            reference: request.trains() || request.corrects() && fits,
            scales: Scales::of(&plans),
            dtype: plan.dtype,
        })
    }

    /// Carries the recipe out block by block, from the first block that any of the journals does not have.
    pub(crate) fn run(
        &self,
        writers: &PerFormat<&TensorWriter>,
        workspace: &Workspace,
    ) -> Result<Vec<BlockReport>> {
        let journals: Vec<&Journal> = writers.all().map(|writer| &writer.journal).collect();
        let intact = |report: &BlockReport| -> Result<bool> {
            let held = |writer: &&TensorWriter| {
                writer.holds(&self.tensors_of(report.block, writer), &report.digests)
            };
            writers.all().try_fold(true, |all, writer| Ok(all && held(writer)?))
        };
        self.runner.each_block(workspace, &journals, self.reference, intact, |index, chains, next| {
            let (result, mut report) = self.compress(index, chains, next)?;
            for writer in writers.all() {
                let tensors = self.tensors_of(index, writer);
                report.scales.extend(writer.scales(&tensors, &result));
                // Tensors of the block that a stopped run has written are written once more, for their digests.
                writer.stream(tensors.into_iter(), &result)?;
                report.digests.extend(writer.take_digests());
                report.digests.extend(writer.write_factors(&result)?);
                writer.files.sync()?;
            }
            fault::point(&format!("block {index} written"));
            Ok(report)
        })
    }

    /// Refuses outputs that store scales of a tensor outside the blocks, or prune one.
    pub(crate) fn refuse_unreached(&self, writer: &TensorWriter) -> Result<()> {
        let in_blocks = self.all_tensors(writer);
        let tensors = writer.plan.tensors.iter().enumerate();
        let outside = || tensors.clone().filter(|(index, _)| !in_blocks.contains(index));
        if let Some((_, tensor)) = outside().find(|(_, tensor)| !tensor.measured.is_empty()) {
            return Err(unmeasured(tensor));
        }
        match outside().find(|(_, tensor)| tensor.sparsity.is_some()) {
            None => Ok(()),
            Some((_, tensor)) => Err(Error::unsupported(
                format!("{}: it is in no decoder block, and only these are pruned", tensor.output.name),
                "--exclude leaves it alone",
            )),
        }
    }

    /// The tensors of an output that come from any block.
    pub(crate) fn all_tensors(&self, writer: &TensorWriter) -> HashSet<usize> {
        (0..self.runner.layouts.len()).flat_map(|index| self.tensors_of(index, writer)).collect()
    }

    /// The tensors of an output that come from tensors of a block.
    fn tensors_of(&self, index: usize, writer: &TensorWriter) -> Vec<usize> {
        let layout = &self.runner.layouts[index];
        let linears = layout.linears.iter().flat_map(|linear| [Some(&linear.name), linear.bias.as_ref()]);
        let norms = layout.norms.iter().flat_map(|norm| [Some(&norm.weight), norm.bias.as_ref()]);
        let names: HashSet<&String> = linears.chain(norms).flatten().collect();
        let of_block = |index: &usize| {
            writer.plan.tensors[*index].output.pieces.iter().any(|piece| names.contains(&piece.source))
        };
        (0..writer.plan.tensors.len()).filter(of_block).collect()
    }
}
