//! One block through the stages of a recipe. This is the one loop that carries stages out, each by its scope.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::Array2;

use super::block_loop::BlockLoop;
use super::chain::Chain;
use super::fit::Fitted;
use super::report::{BlockReport, LinearReport};
use super::units::Group;
use super::weights::{Current, vectors};
use super::work::{Work, weigh_columns};
use crate::calib::TrainableBlock;
use crate::error::Result;
use crate::numerics::Weight;
use crate::numerics::sparsity::described;
use crate::pipeline::options::Event;
use crate::pipeline::stream::BlockResult;
use crate::stage::{Block, BlockLinear, Scope, Stage, relative_error};
use crate::statistics::Needs;

/// Dense weights that codes, or pruned weights, have replaced, by linear.
type Originals = Vec<Option<Array2<f32>>>;

impl BlockLoop<'_> {
    /// Carries the stages out on a block, and runs the result from the chains before this block into those behind it.
    pub(super) fn compress(
        &self,
        index: usize,
        chains: &[Chain],
        next: &[Chain],
    ) -> Result<(BlockResult, BlockReport)> {
        let mut report = BlockReport::of(index);
        let block = self.load(&mut report)?;
        let mut work = Work { block, edited: false, rewritten: false, report, key_values: [0.0; 2] };
        self.set_extents(&mut work.block)?;
        let mut reference = self.reference;
        for group in &self.groups {
            if reference && !matches!(group.first, Stage::Rewrite(_)) {
                // Rewrites may have turned the stream, and compute the same.
                self.runner.pass(index, &self.current(&work), &chains[1], None, Some(&next[1]))?;
                reference = false;
            }
            match group.scope {
                Scope::Rows => {} // they are quantized as they are written, after `pass_on`
                Scope::Input => self.by_depth(&mut work, group, chains, next)?,
                Scope::Block => self.whole(&mut work, group, chains, next)?,
            }
            if matches!(group.first, Stage::Rewrite(_) | Stage::Prune(_)) && !group.quantizes() {
                self.set_extents(&mut work.block)?;
            }
        }
        self.pass_on(&mut work, &chains[0], &next[0])?;
        work.report.linears = work.block.linears.iter().filter_map(reported).collect();
        let layout = &self.runner.layouts[index];
        let scales = self.scales.measured(layout, &work.block.inputs, work.key_values)?;
        Ok((BlockResult { scales, ..result(work.block, work.edited) }, work.report))
    }

    /// The weights as the stages so far have left them.
    pub(super) fn current(&self, work: &Work) -> Current<'_> {
        self.runner.weights().with(&work.block, work.edited)
    }

    /// Carries a group out on the linears of one depth after the other: the inputs of later depths are computed with the
    /// results of earlier ones.
    fn by_depth(&self, work: &mut Work, group: &Group, chains: &[Chain], next: &[Chain]) -> Result<()> {
        for (depth, linears) in self.depths(&work.block, group) {
            if !self.fit(work, group, &linears, chains, next)? {
                self.observe(work, group.needs(), Some(depth), &chains[0], None)?;
            }
            if group.weighs_columns() {
                weigh_columns(&mut work.block);
            }
            let mut part = work.block.take(&linears);
            let originals = self.apply_all(group, &mut part)?;
            self.settle(group, &originals, &mut part)?;
            work.block.put_back(&linears, part);
            work.note(&group.first);
        }
        Ok(())
    }

    /// Fits the last linear of a block to the original model's states, if the group does, and these are it alone. Returns true if
    /// its inputs then have the statistics that the group needs.
    fn fit(
        &self,
        work: &mut Work,
        group: &Group,
        linears: &[usize],
        chains: &[Chain],
        next: &[Chain],
    ) -> Result<bool> {
        let index = work.block.index;
        let layout = &self.runner.layouts[index];
        let ([input, _], [_, target], Some(last)) = (chains, next, layout.last_writer()) else {
            return Ok(false);
        };
        let at = layout.linears.len() - 1;
        if !group.corrects() || linears != [at] {
            return Ok(false);
        }
        let Fitted { weight, inputs } = self.runner.fit(index, &self.current(work), last, input, target)?;
        let linear = &mut work.block.linears[at];
        linear.weight = Weight::Dense(weight);
        linear.input = Some(0);
        work.block.inputs = vec![inputs];
        work.edited = true;
        let Needs { absmax, mean_abs, .. } = group.needs();
        Ok(!absmax && !mean_abs)
    }

    /// Applies the stages of a group that replace weights to a part of a block. Returns the dense weights before the last that replaced them.
    fn apply_all(&self, group: &Group, part: &mut Block) -> Result<Originals> {
        let mut originals = apply(&group.first, part)?;
        for stage in group.rest.iter().filter(|stage| matches!(stage, Stage::Quantize(_))) {
            self.set_extents(part)?;
            let replaced = apply(stage, part)?;
            originals = replaced.into_iter().zip(originals).map(|(last, first)| last.or(first)).collect();
        }
        Ok(originals)
    }

    /// The depths of a block, and the numbers of the linears there that a group works on.
    fn depths(&self, block: &Block, group: &Group) -> Vec<(usize, Vec<usize>)> {
        let places = &self.runner.layouts[block.index].linears;
        let linear_is = |stage: &Stage, linear: &BlockLinear| match stage {
            Stage::Prune(_) => linear.sparsity.is_some(),
            _ => linear.scheme.is_some(),
        };
        let works_on = |i: &usize| group.stages().any(|stage| linear_is(stage, &block.linears[*i]));
        let depths: BTreeSet<usize> = places.iter().map(|place| place.depth).collect();
        let linears = |depth| (0..places.len()).filter(move |&i| places[i].depth == depth).filter(works_on);
        let mut parts: Vec<(usize, Vec<usize>)> =
            depths.into_iter().map(|depth| (depth, linears(depth).collect())).collect();
        // The last linear makes up for all others, for those beside it too.
        if let (true, Some((depth, last))) = (group.corrects(), parts.last_mut())
            && let Some(alone) = last.pop_if(|last| *last + 1 == places.len())
        {
            let part = (*depth, vec![alone]);
            parts.push(part);
        }
        parts.retain(|(_, linears)| !linears.is_empty());
        parts
    }

    /// Carries a group out on the whole block.
    fn whole(&self, work: &mut Work, group: &Group, chains: &[Chain], next: &[Chain]) -> Result<()> {
        if group.first.trains() {
            work.block.trainable = self.trainable(work, chains, next)?;
        }
        self.observe(work, group.first.needs(), None, &chains[0], None)?;
        let originals = apply(&group.first, &mut work.block)?;
        work.block.trainable = None;
        work.note(&group.first);
        let observed = matches!(group.first, Stage::Prune(_));
        if !observed && work.block.linears.iter().zip(&originals).any(unmeasured) {
            let needs = group.needs().union(Needs::IMPORTANCE);
            self.observe(work, needs, None, &chains[0], None)?;
        }
        self.settle(group, &originals, &mut work.block)
    }

    /// The block with gradients, for the outputs of the original model.
    fn trainable(
        &self,
        work: &Work,
        chains: &[Chain],
        next: &[Chain],
    ) -> Result<Option<Arc<dyn crate::stage::Trainable>>> {
        let ([compressed, _], [_, target]) = (chains, next) else { return Ok(None) };
        let index = work.block.index;
        let states = self.runner.batches.between(compressed, target);
        let block = TrainableBlock::load(
            self.runner.machine.trainer()?,
            &self.runner.model,
            &self.current(work),
            index,
            Box::new(states),
        )?;
        Ok(Some(Arc::new(block)))
    }

    /// Finishes a part of a block whose weights have codes or zeros: measures their errors, lets the compensating stages correct
    /// them, and reports the linears.
    fn settle(&self, group: &Group, originals: &Originals, part: &mut Block) -> Result<()> {
        for (linear, original) in part.linears.iter_mut().zip(originals) {
            if let (None, Some(w)) = (linear.relative_error, original) {
                let statistics = linear.input.map(|input| &part.inputs[input]);
                linear.relative_error =
                    Some(relative_error(w.view(), linear.weight.values().view(), statistics));
            }
        }
        for stage in &group.rest {
            if let Stage::Compensate(method) = stage {
                self.compensate(method.as_ref(), originals, part)?;
            }
        }
        let coded = part.linears.iter().zip(originals).filter(|(_, original)| original.is_some());
        self.tell(part.index, coded.map(|(linear, _)| linear));
        part.forget_inputs();
        Ok(())
    }

    /// Reports linears as they are finished.
    fn tell<'l>(&self, block: usize, linears: impl Iterator<Item = &'l BlockLinear>) {
        for linear in linears.filter_map(reported) {
            (self.runner.options.events)(&Event::Linear { block, linear: &linear });
        }
    }

    /// Runs the compressed block into the next one's chain. Measures what is stored as scales, and the importance of
    /// columns for rows that are quantized as they are written.
    fn pass_on(&self, work: &mut Work, input: &Chain, output: &Chain) -> Result<()> {
        let by_rows = self.groups.iter().find(|group| group.scope == Scope::Rows);
        if by_rows.is_none() && !self.scales.any() {
            return self
                .runner
                .pass(work.block.index, &self.current(work), input, None, Some(output))
                .map(drop);
        }
        let needs = by_rows.map(Group::needs).unwrap_or_default().union(self.scales.needs());
        self.observe(work, needs, None, input, Some(output))?;
        if by_rows.is_some() {
            weigh_columns(&mut work.block);
            self.tell(work.block.index, work.block.linears.iter());
        }
        Ok(())
    }
}

/// Applies a stage to a block, or to a part of one. Returns the dense weights that codes, or pruned weights, have replaced.
fn apply(stage: &Stage, block: &mut Block) -> Result<Originals> {
    match stage {
        Stage::Rewrite(method) => block.edit(method.rewrite(block)?),
        Stage::Prune(method) => return Ok(block.prune(method.prune(block)?)),
        Stage::Quantize(method) => return Ok(block.encode(method.quantize(block)?)),
        Stage::Shape(_) => {}      // the plan is of what it has left
        Stage::Compensate(_) => {} // corrects codes; without a stage before it there are none
    }
    Ok(Vec::new())
}

/// Returns true for codes whose error the method has not measured.
fn unmeasured((linear, original): (&BlockLinear, &Option<Array2<f32>>)) -> bool {
    original.is_some() && linear.relative_error.is_none()
}

/// The report of a linear that is quantized or pruned.
fn reported(linear: &BlockLinear) -> Option<LinearReport> {
    let scheme = described(linear.sparsity, linear.scheme)?;
    // To a millionth: JSON gives short decimals back to the bit, so that a resumed run reports the same.
    let short = |error: f64| (error * 1e6).round() / 1e6;
    let relative_error = linear.relative_error.map(short);
    let compensated_error = linear.compensated_error.map(short);
    Some(LinearReport { name: linear.name.clone(), scheme, relative_error, compensated_error })
}

/// The result of a compressed block: what the writer needs from it.
fn result(block: Block, edited: bool) -> BlockResult {
    let mut result = BlockResult::default();
    if edited {
        let row = |values: Vec<f32>| Array2::from_shape_vec((1, values.len()), values);
        let rows = vectors(&block).into_iter().filter_map(|(name, values)| Some((name, row(values).ok()?)));
        result.values.extend(rows);
    }
    for linear in block.linears {
        result.extents.extend(linear.extent.filter(|_| edited).map(|extent| (linear.name.clone(), extent)));
        result.importance.extend(linear.importance.map(|importance| (linear.name.clone(), importance)));
        result.factors.extend(linear.compensation.map(|factors| (linear.name.clone(), factors)));
        match linear.weight {
            Weight::Quantized(q) => drop(result.codes.insert(linear.name, q)),
            Weight::Dense(values) if edited => drop(result.values.insert(linear.name, values)),
            Weight::Dense(_) => {}
        }
    }
    result
}
