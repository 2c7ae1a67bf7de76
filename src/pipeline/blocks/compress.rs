//! One block through the stages of a recipe.

use std::sync::Arc;

use ndarray::Array2;

use super::chain::Chain;
use super::passes::Gathered;
use super::weights::{Current, vectors};
use super::{BlockReport, Blocks, LinearReport};
use crate::calib::observe::Watch;
use crate::calib::{Known, TrainableBlock};
use crate::error::Result;
use crate::model::{LinearPlace, NormPlace};
use crate::numerics::{Extent, Weight};
use crate::pipeline::Event;
use crate::pipeline::gather::{NonFinite, clear_nonfinite};
use crate::pipeline::made::Made;
use crate::stage::{self, Method, Norm, Scope};
use crate::statistics::{Needs, Statistics};

/// A block on its way.
struct Work {
    block: stage::Block,
    /// Whether a stage has changed weights or norms.
    rewritten: bool,
    report: BlockReport,
    /// The largest key and value of the last pass that looked for them.
    key_values: [f32; 2],
}

impl Blocks<'_> {
    /// Makes codes of a block's linears; runs the result from the chains of this block into those of the next.
    pub(super) fn compress(
        &self,
        index: usize,
        chains: &[Chain],
        next: &[Chain],
    ) -> Result<(Made, BlockReport)> {
        let mut report = BlockReport::of(index);
        let block = self.load(&mut report)?;
        let mut work = Work { block, rewritten: false, report, key_values: [0.0; 2] };
        for stage in &self.request.rewriting {
            self.observe(&mut work, stage.needs(), None, &chains[0], None)?;
            stage.apply(&mut work.block)?;
            work.rewritten = true;
        }
        self.set_extents(&mut work.block)?;
        let method = self.request.method.as_ref();
        // What rows become is not needed here, unless something is to make up for it.
        let as_written = method.scope() == Scope::Rows && self.request.compensation.is_none();
        match method.scope() {
            Scope::Rows if as_written => self.weigh(&mut work, &chains[0], &next[0])?,
            Scope::Rows | Scope::Input => self.by_input(&mut work, method, &chains[0])?,
            Scope::Block => self.whole(&mut work, method, chains, next)?,
        }
        if !as_written {
            self.pass_on(&mut work, &chains[0], &next[0])?;
        }
        work.report.linears = work.block.linears.iter().filter_map(reported).collect();
        let layout = &self.runner.layouts[index];
        let scales = self.scales.measured(layout, &work.block.inputs, work.key_values)?;
        let made = made(work.block, work.rewritten || method.scope() == Scope::Block);
        Ok((Made { scales, ..made }, work.report))
    }

    /// Tells of linears as they are finished.
    fn tell(&self, block: usize, linears: &[stage::Linear]) {
        for linear in linears.iter().filter_map(reported) {
            (self.runner.options.events)(&Event::Linear { block, linear: &linear });
        }
    }

    /// The weights as the stages so far have left them.
    fn current(&self, work: &Work) -> Current<'_> {
        self.runner.weights().with(&work.block, work.rewritten)
    }

    /// Gathers statistics of the inputs of a depth, or of all, into the block.
    fn observe(
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

    /// Takes statistics of the inputs of a depth, or of all, from those that an earlier run has gathered. They are of the
    /// model as it was: of inputs that a stage has rewritten nothing is known.
    fn recall(&self, work: &mut Work, known: &Known, depth: Option<usize>) -> Result<()> {
        let places = &self.runner.layouts[work.block.index].linears;
        let known = known.block(work.block.index)?;
        let count = places.iter().map(|place| place.input + 1).max().unwrap_or(0);
        let mut inputs: Vec<Option<Statistics>> = vec![None; count];
        for (linear, place) in work.block.linears.iter_mut().zip(places) {
            linear.input = None;
            if work.rewritten || depth.is_some_and(|depth| depth != place.depth) {
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

    /// For methods that take rows by themselves: the importance of columns, on the uncompressed chain.
    fn weigh(&self, work: &mut Work, input: &Chain, output: &Chain) -> Result<()> {
        let needs = self.request.method.needs().union(Needs::IMPORTANCE).union(self.scales.needs());
        self.observe(work, needs, None, input, Some(output))?;
        weigh_columns(&mut work.block);
        self.tell(work.block.index, &work.block.linears);
        Ok(())
    }

    /// Runs the compressed block into the next one's chain, and measures what outputs hold scales of.
    fn pass_on(&self, work: &mut Work, input: &Chain, output: &Chain) -> Result<()> {
        if self.scales.any() {
            return self.observe(work, self.scales.needs(), None, input, Some(output));
        }
        self.runner.pass(work.block.index, &self.current(work), input, None, Some(output)).map(drop)
    }

    /// What the quantizing method wants to know of the inputs, and what makes up for its error.
    fn needs(&self) -> Needs {
        let method = self.request.method.as_ref();
        let needs = method.needs().union(self.request.compensation_needs());
        if method.scope() == Scope::Rows { needs.union(Needs::IMPORTANCE) } else { needs }
    }

    /// For methods that take the linears of one depth at a time: later depths see what the earlier ones have become.
    fn by_input(&self, work: &mut Work, method: &dyn Method, input: &Chain) -> Result<()> {
        let places = &self.runner.layouts[work.block.index].linears;
        let needs = self.needs();
        let depths: std::collections::BTreeSet<usize> = places.iter().map(|place| place.depth).collect();
        for depth in depths {
            let of_depth: Vec<usize> = (0..places.len())
                .filter(|&i| places[i].depth == depth && work.block.linears[i].scheme.is_some())
                .collect();
            if of_depth.is_empty() {
                continue;
            }
            self.observe(work, needs, Some(depth), input, None)?;
            if method.scope() == Scope::Rows {
                weigh_columns(&mut work.block);
            }
            let before: Vec<_> = of_depth.iter().map(|&i| work.block.linears[i].clone()).collect();
            let (index, inputs) = (work.block.index, std::mem::take(&mut work.block.inputs));
            let mut part = stage::Block { index, linears: before.clone(), inputs, ..stage::Block::default() };
            method.apply(&mut part)?;
            self.settle(index, &before, &mut part.linears, part.inputs)?;
            self.tell(index, &part.linears);
            of_depth.iter().zip(part.linears).for_each(|(&i, linear)| work.block.linears[i] = linear);
        }
        Ok(())
    }

    /// For methods that take the block as a whole.
    fn whole(&self, work: &mut Work, method: &dyn Method, chains: &[Chain], next: &[Chain]) -> Result<()> {
        let index = work.block.index;
        if let [compressed, reference] = chains {
            self.runner.pass(index, &self.current(work), reference, None, Some(&next[1]))?;
            let states = self.runner.batches.between(compressed, &next[1]);
            let trainable =
                TrainableBlock::load(&self.runner.model, &self.current(work), index, Box::new(states))?;
            work.block.trainable = Some(Arc::new(trainable));
        }
        self.observe(work, method.needs(), None, &chains[0], None)?;
        // What learns how to round leaves alone what the linears compute, so that they can be compared.
        let before = method.trains().then(|| work.block.linears.clone());
        method.apply(&mut work.block)?;
        work.block.trainable = None;
        work.rewritten = true;
        if let Some(before) = before {
            self.observe(work, self.needs().union(Needs::IMPORTANCE), None, &chains[0], None)?;
            let inputs = std::mem::take(&mut work.block.inputs);
            self.settle(index, &before, &mut work.block.linears, inputs)?;
        }
        self.tell(index, &work.block.linears);
        Ok(())
    }

    /// Reads a block's weights; reports those that are not finite.
    fn load(&self, report: &mut BlockReport) -> Result<stage::Block> {
        let index = report.block;
        let layout = &self.runner.layouts[index];
        let linears = layout.linears.iter().map(|place| self.load_linear(place, report));
        let linears = linears.collect::<Result<_>>()?;
        let norms = layout.norms.iter().map(|place| self.load_norm(place, report)).collect::<Result<_>>()?;
        let folds = layout.folds.clone();
        Ok(stage::Block { index, linears, norms, folds, ..stage::Block::default() })
    }

    fn load_linear(&self, place: &LinearPlace, report: &mut BlockReport) -> Result<stage::Linear> {
        let values = self.read(&place.name, report)?;
        let scheme = self.schemes.get(place.name.as_str()).map(|(scheme, _)| *scheme);
        let bias = place.bias.as_deref().map(|name| self.read(name, report)).transpose()?;
        Ok(stage::Linear {
            name: place.name.clone(),
            scheme,
            extent: None,
            importance: None,
            weight: Weight::Dense(values),
            bias: bias.map(|values| values.into_iter().collect()),
            input: None,
            writes_residual: place.writes_residual,
            relative_error: None,
            compensation: None,
            compensated_error: None,
        })
    }

    fn load_norm(&self, place: &NormPlace, report: &mut BlockReport) -> Result<Norm> {
        let more = if place.plus_one { 1.0 } else { 0.0 };
        let bias = place.bias.as_deref().map(|name| self.read(name, report)).transpose()?;
        Ok(Norm {
            place: place.clone(),
            weight: self.read(&place.weight, report)?.iter().map(|w| w + more).collect(),
            bias: bias.map(|values| values.into_iter().collect()),
        })
    }

    /// All values of a tensor, [rows, cols]; what is not finite, and allowed, is taken as 0.
    fn read(&self, name: &str, report: &mut BlockReport) -> Result<Array2<f32>> {
        let source = self.runner.checkpoint.source(name)?;
        let [rows, cols] = source.rows_cols();
        let mut values = vec![0.0; rows * cols];
        self.runner.checkpoint.read_rows(source, 0..rows, &mut values)?;
        let found = NonFinite::count(&values);
        if !found.none() {
            report.nonfinite.push((name.to_owned(), found.nan, found.inf));
        }
        if !found.none() && !self.runner.allow_nonfinite {
            return Err(found.refusal(&self.runner.checkpoint.path, name, values.len() as u64));
        }
        clear_nonfinite(&mut values);
        Ok(Array2::from_shape_vec((rows, cols), values).expect("as many values as the shape says"))
    }

    /// The extents that schemes need, of all linears that share theirs.
    fn set_extents(&self, block: &mut stage::Block) -> Result<()> {
        let group = |linear: &stage::Linear| self.schemes.get(linear.name.as_str())?.1;
        let mut extents: Vec<Option<Extent>> = Vec::new();
        for linear in &block.linears {
            let needed = linear.scheme.is_some_and(|scheme| scheme.needs_extent());
            let values = needed.then(|| linear.dense()).transpose()?;
            extents.push(values.map(|values| Extent::of(&values.iter().copied().collect::<Vec<_>>())));
        }
        for index in 0..block.linears.len() {
            let own = group(&block.linears[index]);
            let shares =
                |other: &usize| *other == index || own.is_some() && group(&block.linears[*other]) == own;
            let all = (0..extents.len()).filter(shares).filter_map(|other| extents[other]);
            block.linears[index].extent = all.reduce(Extent::union);
        }
        Ok(())
    }
}

/// How much each column matters, where the inputs are known.
fn weigh_columns(block: &mut stage::Block) {
    for linear in &mut block.linears {
        linear.importance = linear.input.map(|input| block.inputs[input].second_moment());
    }
}

/// What is told of a linear that has a scheme.
fn reported(linear: &stage::Linear) -> Option<LinearReport> {
    let scheme = linear.scheme?.to_string();
    // To a millionth: JSON gives short decimals back to the bit, so that a resumed run reports the same.
    let short = |error: f64| (error * 1e6).round() / 1e6;
    let relative_error = linear.relative_error.map(short);
    let compensated_error = linear.compensated_error.map(short);
    Some(LinearReport { name: linear.name.clone(), scheme, relative_error, compensated_error })
}

/// What a finished block leaves for the outputs.
fn made(block: stage::Block, rewritten: bool) -> Made {
    let mut made = Made::default();
    if rewritten {
        let row = |values: Vec<f32>| Array2::from_shape_vec((1, values.len()), values);
        let rows = vectors(&block).into_iter().filter_map(|(name, values)| Some((name, row(values).ok()?)));
        made.values.extend(rows);
    }
    for linear in block.linears {
        made.extents.extend(linear.extent.filter(|_| rewritten).map(|extent| (linear.name.clone(), extent)));
        made.importance.extend(linear.importance.map(|importance| (linear.name.clone(), importance)));
        made.factors.extend(linear.compensation.map(|factors| (linear.name.clone(), factors)));
        match linear.weight {
            Weight::Quantized(q) => drop(made.codes.insert(linear.name, q)),
            Weight::Dense(values) if rewritten => drop(made.values.insert(linear.name, values)),
            Weight::Dense(_) => {}
        }
    }
    made
}
