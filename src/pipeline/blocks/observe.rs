//! Statistics of the inputs of a block in work: gathered in a pass, or those of an earlier run.

use super::block_loop::BlockLoop;
use super::chain::Chain;
use super::passes::Gathered;
use super::work::Work;
use crate::calib::PriorStatistics;
use crate::calib::observe::Watch;
use crate::error::Result;
use crate::statistics::{Needs, Statistics};

impl BlockLoop<'_> {
    /// Gathers statistics of the inputs of one depth, or of all, into the block. With `output`, the block's outputs are
    /// written there.
    pub(super) fn observe(
        &self,
        work: &mut Work,
        needs: Needs,
        depth: Option<usize>,
        input: &Chain,
        output: Option<&Chain>,
    ) -> Result<()> {
        if needs == Needs::default() && output.is_none() {
            return Ok(());
        }
        if let Some(prior) = self.runner.input.prior {
            return self.recall(work, prior, depth);
        }
        let index = work.block.index;
        let key_values = output.is_some() && self.scales.key_values();
        let watch = Watch { needs, depth, key_values, ..Watch::default() };
        let Gathered { seen, experts } =
            self.runner.gather(index, &self.current(work), input, watch, output)?;
        for report in experts {
            if work.report.experts.iter().all(|known| known.expert != report.expert) {
                work.report.experts.push(report);
            }
        }
        work.key_values = seen.key_values;
        let known: Vec<bool> = seen.inputs.iter().map(Option::is_some).collect();
        work.block.inputs = seen.inputs.into_iter().map(Option::unwrap_or_default).collect();
        for (linear, place) in work.block.linears.iter_mut().zip(&self.runner.layouts[index].linears) {
            linear.input = Some(place.input).filter(|input| known[*input]);
        }
        Ok(())
    }

    /// Takes statistics of the inputs of one depth, or of all, from an earlier run. They are of the original model: after an
    /// edit, no input has statistics.
    fn recall(&self, work: &mut Work, prior: &PriorStatistics, depth: Option<usize>) -> Result<()> {
        let places = &self.runner.layouts[work.block.index].linears;
        let prior = prior.block(work.block.index)?;
        let count = places.iter().map(|place| place.input + 1).max().unwrap_or(0);
        let mut inputs: Vec<Option<Statistics>> = vec![None; count];
        for (linear, place) in work.block.linears.iter_mut().zip(places) {
            linear.input = None;
            if work.rewritten || depth.is_some_and(|depth| depth != place.depth) {
                continue;
            }
            let input = &mut inputs[place.input];
            if input.is_none() {
                *input = prior.statistics(&linear.name, linear.dense()?.ncols())?;
            }
            linear.input = input.is_some().then_some(place.input);
        }
        work.block.inputs = inputs.into_iter().map(Option::unwrap_or_default).collect();
        Ok(())
    }
}
