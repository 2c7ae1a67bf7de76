//! The block loop: one decoder block of weights in memory at a time, fed with what the compressed blocks before it make of
//! the calibration set.
//!
//! For each block: its weights are read, the recipe's stages rewrite them and replace them by codes, with statistics of
//! inputs that passes over the block gather; the outputs' tensors of the block are written; the compressed block is run
//! once more to make the next one's inputs. Then the journal records it, and all of it is dropped.

mod chain;
mod compensate;
mod compress;
mod passes;
mod report;
mod runner;
mod scales;
mod weights;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use chain::Chain;
pub use passes::BATCH_TOKENS;
pub use report::{BlockReport, ExpertReport, LinearReport, REPORTS_NAME};
pub use runner::{Material, Runner, layouts};

use super::fault;
use super::journal::Journal;
use super::made::Made;
use super::stream::{Run, unmeasured};
use super::{Options, Workspace};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::Scheme;
use crate::recipe::Request;
use crate::tensor::DType;
use scales::Scales;

/// The loop's surroundings, which no block changes.
pub(super) struct Blocks<'a> {
    runner: Runner<'a>,
    /// What each linear becomes, by the name of its weight, and a number that linears share which share their extent.
    schemes: HashMap<&'a str, (Scheme, Option<usize>)>,
    request: &'a Request,
    /// What outputs store of what flows through.
    scales: Scales,
    /// The model's float type.
    dtype: DType,
}

impl<'a> Blocks<'a> {
    /// Looks up how the model is made.
    ///
    /// # Errors
    /// An architecture that llmc cannot run, or one whose blocks it cannot take apart.
    pub fn new(
        runs: &[&Run<'a>],
        checkpoint: &Arc<Checkpoint>,
        material: Material<'a>,
        ends: &'a Made,
        options: &'a Options<'a>,
    ) -> Result<Self> {
        let run = runs[0];
        let runner = Runner::new(checkpoint, material, ends, run.plan.recipe.allow_nonfinite, options)?;
        let (schemes, request) = (run.plan.schemes(), &run.plan.request);
        let (scales, dtype) = (Scales::of(runs), run.plan.dtype);
        Ok(Blocks { runner, schemes, request, scales, dtype })
    }

    /// Carries the recipe out, block by block, from the first that any of the journals does not have.
    pub fn run(&self, runs: &[&Run], workspace: &Workspace) -> Result<Vec<BlockReport>> {
        let trains = self.request.method.trains();
        let journals: Vec<&Journal> = runs.iter().map(|run| &run.journal).collect();
        self.runner.each_block(workspace, &journals, trains, |index, chains, next| {
            let (made, mut report) = self.compress(index, chains, next)?;
            for run in runs {
                let steps = self.steps_of(index, run);
                report.scales.extend(run.scales(&steps, &made));
                // What a stopped run has written of the block is written once more, for its digest.
                run.stream(steps.into_iter(), &made)?;
                report.digests.extend(run.take_digests());
                run.write_factors(&made)?;
                run.files.sync()?;
            }
            fault::point(&format!("block {index} written"));
            Ok(report)
        })
    }

    /// Refuses outputs that store scales of what no block holds.
    pub fn refuse_unmeasured(&self, run: &Run) -> Result<()> {
        let in_blocks = self.all_steps(run);
        let steps = run.plan.steps.iter().enumerate();
        match steps
            .filter(|(index, _)| !in_blocks.contains(index))
            .find(|(_, step)| !step.measured.is_empty())
        {
            None => Ok(()),
            Some((_, step)) => Err(unmeasured(step)),
        }
    }

    /// The steps of an output that come from any block.
    pub fn all_steps(&self, run: &Run) -> HashSet<usize> {
        (0..self.runner.layouts.len()).flat_map(|index| self.steps_of(index, run)).collect()
    }

    /// The steps of an output that come from tensors of a block.
    fn steps_of(&self, index: usize, run: &Run) -> Vec<usize> {
        let layout = &self.runner.layouts[index];
        let linears = layout.linears.iter().flat_map(|linear| [Some(&linear.name), linear.bias.as_ref()]);
        let norms = layout.norms.iter().flat_map(|norm| [Some(&norm.weight), norm.bias.as_ref()]);
        let names: HashSet<&String> = linears.chain(norms).flatten().collect();
        let of_block = |index: &usize| {
            run.plan.steps[*index].output.pieces.iter().any(|piece| names.contains(&piece.source))
        };
        (0..run.plan.steps.len()).filter(of_block).collect()
    }
}
