//! Statistics of the inputs of a block in work: gathered in a pass, or those of an earlier run.

use super::Blocks;
use super::chain::Chain;
use super::compress::Work;
use super::passes::Gathered;
use crate::calib::Known;
use crate::calib::observe::Watch;
use crate::error::Result;
use crate::stage::Block;
use crate::statistics::{Needs, Statistics};

impl Blocks<'_> {
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
        if let Some(known) = self.runner.material.known {
            return self.recall(work, known, depth);
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

    /// Takes statistics of the inputs of one depth, or of all, from an earlier run. They are of the model as it was: after
    /// an edit, nothing is known of the inputs.
    fn recall(&self, work: &mut Work, known: &Known, depth: Option<usize>) -> Result<()> {
        let places = &self.runner.layouts[work.block.index].linears;
        let known = known.block(work.block.index)?;
        let count = places.iter().map(|place| place.input + 1).max().unwrap_or(0);
        let mut inputs: Vec<Option<Statistics>> = vec![None; count];
        for (linear, place) in work.block.linears.iter_mut().zip(places) {
            linear.input = None;
            if work.edited || depth.is_some_and(|depth| depth != place.depth) {
                continue;
            }
            let input = &mut inputs[place.input];
            if input.is_none() {
                *input = known.statistics(&linear.name, linear.dense()?.ncols())?;
            }
            linear.input = input.is_some().then_some(place.input);
        }
        work.block.inputs = inputs.into_iter().map(Option::unwrap_or_default).collect();
        Ok(())
    }
}

/// Sets the importance of the columns of each linear, if its inputs are known.
pub(super) fn weigh_columns(block: &mut Block) {
    for linear in &mut block.linears {
        linear.importance = linear.input.map(|input| block.inputs[input].second_moment());
    }
}
