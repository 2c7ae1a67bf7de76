//! Passes of the calibration set over a block, a batch of sequences at a time.

use std::collections::BTreeSet;
use std::ops::Range;

use super::chain::Chain;
use super::machine::Machine;
use super::report::ExpertReport;
use super::runner::Runner;
use crate::backend::Backend;
use crate::backend::cpu::{self, Cpu};
use crate::calib::observe::Watch;
use crate::calib::{InputStatistics, Observing};
use crate::error::{Error, Result};
use crate::model::{Block, BlockLayout, Weights};
use crate::pipeline::options::check_interrupted;

/// Statistics of a block's inputs, and the coverage of its experts.
pub(crate) struct Gathered {
    pub seen: InputStatistics,
    pub experts: Vec<ExpertReport>,
}

/// The error of activations that overflow: every statistic would be worthless.
pub(crate) fn not_finite(what: impl std::fmt::Display) -> Error {
    Error::unsupported(
        format!("{what} are not finite on the calibration text"),
        "`llmc eval perplexity` shows whether the model itself computes finite values; weights or activations overflow",
    )
}

impl Runner<'_> {
    /// Runs the calibration set through a block, gathers the statistics of `watch`, and writes the outputs to `output`.
    pub(crate) fn pass(
        &self,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        watch: Option<Watch>,
        output: Option<&Chain>,
    ) -> Result<InputStatistics> {
        match &self.machine {
            Machine::Cpu => {
                self.pass_with(Cpu::new(cpu::Activations::F32), index, weights, input, watch, output)
            }
            Machine::Candle(candle) => self.pass_with(candle.clone(), index, weights, input, watch, output),
        }
    }

    /// Runs the calibration set through a block on a backend.
    fn pass_with<B: Backend>(
        &self,
        backend: B,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        watch: Option<Watch>,
        output: Option<&Chain>,
    ) -> Result<InputStatistics> {
        let backend = Observing::new(backend, &self.layouts[index]);
        // With statistics, the error can name the linear that overflows.
        let watched = watch.as_ref().is_some_and(|watch| watch.needs.any());
        if let Some(watch) = watch {
            backend.watch(Watch { inputs_only: output.is_none(), ..watch });
        }
        self.forward(index, &backend, weights, input, |tokens, values| {
            let Some(output) = output else { return Ok(()) };
            match watched || values.iter().all(|value| value.is_finite()) {
                true => output.write(tokens, values),
                false => Err(not_finite(format_args!("block {index}: its outputs"))),
            }
        })?;
        Ok(backend.seen())
    }

    /// The distance of a block's outputs y′ with these weights from others y: the mean over tokens of ‖y′ − y‖² / ‖y‖².
    pub(crate) fn distance(
        &self,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        reference: &Chain,
    ) -> Result<f64> {
        let mut total = 0.0;
        let add = |tokens: &Range<usize>, values: &[f32]| {
            let reference = reference.read(tokens)?;
            let width = self.model.hidden;
            total += values.chunks(width).zip(reference.chunks(width)).map(relative_square).sum::<f64>();
            Ok(())
        };
        match &self.machine {
            Machine::Cpu => {
                self.forward(index, &Cpu::new(cpu::Activations::F32), weights, input, add)?;
            }
            Machine::Candle(candle) => self.forward(index, candle, weights, input, add)?,
        }
        match total.is_finite() {
            true => Ok(total / self.batches.tokens().max(1) as f64),
            false => {
                Err(not_finite(format_args!("block {index}: its outputs, some of its weights rounded,")))
            }
        }
    }

    /// Runs the calibration set through a block. `take` gets its outputs a batch at a time, with the range of tokens.
    pub(crate) fn forward<B: Backend>(
        &self,
        index: usize,
        backend: &B,
        weights: &dyn Weights,
        input: &Chain,
        mut take: impl FnMut(&Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if self.batches.tokens() == 0 {
            return Ok(());
        }
        let block = Block::load(backend, &self.model, weights, index)?;
        for batch in self.batches.all() {
            check_interrupted(self.options)?;
            let (tokens, spans) = (self.batches.range(batch), self.batches.spans(batch));
            let x = backend.tensor(tokens.len(), self.model.hidden, &input.read(&tokens)?)?;
            let y = block.forward(backend, x, &self.model.rotations(&spans), &spans, None)?;
            backend.read(&y, |values| take(&tokens, values))??;
        }
        Ok(())
    }

    /// Gathers statistics. An expert that got too few tokens gets the statistics of all tokens instead.
    pub(crate) fn gather(
        &self,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        watch: Watch,
        output: Option<&Chain>,
    ) -> Result<Gathered> {
        let mut seen = self.pass(index, weights, input, Some(watch.clone()), output)?;
        if self.batches.tokens() == 0 {
            return Ok(Gathered { seen, experts: Vec::new() });
        }
        let experts = if watch.needs.any() { self.coverage(index, &seen, &watch) } else { Vec::new() };
        let shown_all: BTreeSet<usize> =
            experts.iter().filter(|expert| expert.shown_all).map(|expert| expert.expert).collect();
        if !shown_all.is_empty() {
            let all = self.pass(index, weights, input, Some(Watch { shown_all, ..watch }), None)?;
            for (seen, all) in seen.inputs.iter_mut().zip(all.inputs).filter(|(_, all)| all.is_some()) {
                *seen = all;
            }
        }
        refuse_nonfinite(&self.layouts[index], &seen)?;
        Ok(Gathered { seen, experts })
    }

    /// The number of tokens of each expert whose inputs were observed. An expert without any token is always shown all
    /// tokens.
    fn coverage(&self, index: usize, seen: &InputStatistics, watch: &Watch) -> Vec<ExpertReport> {
        let mut experts: Vec<ExpertReport> = Vec::new();
        for linear in &self.layouts[index].linears {
            let Some(expert) =
                linear.expert.filter(|_| watch.depth.is_none_or(|depth| depth == linear.depth))
            else {
                continue;
            };
            let tokens = seen.inputs[linear.input].as_ref().map_or(0, |statistics| statistics.tokens);
            if experts.iter().all(|report| report.expert != expert) {
                let shown_all = tokens < self.input.expert_tokens.max(1);
                experts.push(ExpertReport { expert, tokens, shown_all });
            }
        }
        experts
    }
}

/// ‖y′ − y‖² / ‖y‖²; 0 if y is 0.
fn relative_square((found, reference): (&[f32], &[f32])) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let whole = square(&mut reference.iter().copied());
    let off = square(&mut found.iter().zip(reference).map(|(found, y)| found - y));
    if whole > 0.0 { off / whole } else { 0.0 }
}

/// Refuses inputs that are not finite: every statistic would be worthless.
fn refuse_nonfinite(layout: &BlockLayout, seen: &InputStatistics) -> Result<()> {
    for linear in &layout.linears {
        let Some(input) = &seen.inputs[linear.input] else { continue };
        let diagonal = input.gram.iter().flat_map(|gram| gram.diag().to_vec());
        let sums = input.sum_squares.iter().map(|sum| *sum as f32).chain(diagonal);
        if sums.chain(input.absmax.iter().copied()).any(|value| !value.is_finite()) {
            return Err(not_finite(format_args!("{}: its inputs", linear.name)));
        }
    }
    Ok(())
}
