//! Passes of the calibration set over a block, a batch of sequences at a time.

use std::collections::BTreeSet;
use std::ops::Range;

use super::chain::Chain;
use super::machine::Machine;
use super::{ExpertReport, Runner};
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Span};
use crate::calib::observe::Watch;
use crate::calib::trainable::Activations;
use crate::calib::{Observing, Seen};
use crate::error::{Error, Result};
use crate::model::{Batch, Block, BlockLayout, Embedding, Model, Weights};
use crate::pipeline::check_interrupted;

/// Tokens that are run together: few enough to stay in the caches, and the same whatever the number of threads, so that
/// sums are added up in the same order.
pub const BATCH_TOKENS: usize = 4096;

/// The calibration set, in batches of whole sequences.
pub struct Batches<'a> {
    sequences: &'a [Vec<u32>],
    batches: Vec<Range<usize>>,
    /// The first token of each sequence, and the end.
    starts: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Consecutive sequences of up to [`BATCH_TOKENS`].
    pub fn new(sequences: &'a [Vec<u32>]) -> Self {
        let mut starts = vec![0];
        let mut batches: Vec<Range<usize>> = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let end = starts[index] + sequence.len();
            starts.push(end);
            match batches.last_mut() {
                Some(last) if end - starts[last.start] <= BATCH_TOKENS => last.end = index + 1,
                _ => batches.push(index..index + 1),
            }
        }
        Batches { sequences, batches, starts }
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.starts[self.sequences.len()]
    }

    /// The tokens of a batch, among all.
    fn range(&self, batch: &Range<usize>) -> Range<usize> {
        self.starts[batch.start]..self.starts[batch.end]
    }

    fn spans(&self, batch: &Range<usize>) -> Vec<Span> {
        let span = |(slot, sequence): (usize, &Vec<u32>)| Span { slot, past: 0, len: sequence.len() };
        self.sequences[batch.clone()].iter().enumerate().map(span).collect()
    }

    /// Each sequence's states before a block, and what the uncompressed one makes of them.
    pub fn between(&self, input: &Chain, target: &Chain) -> States {
        States { starts: self.starts.clone(), input: input.clone(), target: target.clone() }
    }

    /// Writes the first hidden states to each of the chains.
    pub fn embed<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        embedding: &Embedding<B>,
        chains: &[Chain],
    ) -> Result<()> {
        self.batches.iter().try_for_each(|batch| {
            let tokens = Batch::whole(&self.sequences[batch.clone()]);
            let x = embedding.embed(backend, model, &tokens)?;
            let write =
                |values: &[f32]| chains.iter().try_for_each(|chain| chain.write(&self.range(batch), values));
            backend.read(&x, write)?
        })
    }
}

/// The hidden states around a block, sequence by sequence.
pub struct States {
    starts: Vec<usize>,
    input: Chain,
    target: Chain,
}

impl States {
    fn tokens(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }
}

impl Activations for States {
    fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    fn input(&self, sequence: usize) -> Result<Vec<f32>> {
        self.input.read(&self.tokens(sequence))
    }

    fn target(&self, sequence: usize) -> Result<Vec<f32>> {
        self.target.read(&self.tokens(sequence))
    }
}

/// What the experts of a block were calibrated with, beside the statistics.
pub struct Gathered {
    pub seen: Seen,
    pub experts: Vec<ExpertReport>,
}

/// Activations that overflow make every statistic and every error worthless.
pub fn not_finite(what: impl std::fmt::Display) -> Error {
    Error::unsupported(
        format!("{what} are not finite on the calibration text"),
        "`llmc eval perplexity` shows whether the model itself computes finite values; weights or activations overflow",
    )
}

impl Runner<'_> {
    /// Runs the calibration set through a block, looking at what is to be watched, and keeps the outputs where asked.
    pub fn pass(
        &self,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        watch: Option<Watch>,
        output: Option<&Chain>,
    ) -> Result<Seen> {
        match &self.machine {
            Machine::Cpu => {
                self.pass_on(Cpu::new(cpu::Activations::F32), index, weights, input, watch, output)
            }
            Machine::Candle(candle) => self.pass_on(candle.clone(), index, weights, input, watch, output),
        }
    }

    fn pass_on<B: Backend>(
        &self,
        backend: B,
        index: usize,
        weights: &dyn Weights,
        input: &Chain,
        watch: Option<Watch>,
        output: Option<&Chain>,
    ) -> Result<Seen> {
        let backend = Observing::new(backend, &self.layouts[index]);
        // Statistics tell which linear overflows.
        let watched = watch.as_ref().is_some_and(|watch| watch.needs.any());
        if let Some(watch) = watch {
            backend.watch(watch);
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

    /// How far a block's outputs with these weights are from others: the mean over tokens of ‖y′ − y‖² / ‖y‖².
    pub fn distance(
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

    /// Runs the calibration set through a block, and hands over its outputs, a batch at a time, with the tokens' numbers.
    fn forward<B: Backend>(
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
        for batch in &self.batches.batches {
            check_interrupted(self.options)?;
            let (tokens, spans) = (self.batches.range(batch), self.batches.spans(batch));
            let x = backend.tensor(tokens.len(), self.model.hidden, &input.read(&tokens)?)?;
            let y = block.forward(backend, x, &self.model.rotations(&spans), &spans, None)?;
            backend.read(&y, |values| take(&tokens, values))??;
        }
        Ok(())
    }

    /// Gathers statistics, and where an expert was sent too few tokens, those of all tokens instead.
    pub fn gather(
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

    /// How many tokens each expert was sent, of those whose inputs were looked at. One that was sent none is always shown
    /// all: there is nothing else to know of its inputs.
    fn coverage(&self, index: usize, seen: &Seen, watch: &Watch) -> Vec<ExpertReport> {
        let mut experts: Vec<ExpertReport> = Vec::new();
        for linear in &self.layouts[index].linears {
            let Some(expert) =
                linear.expert.filter(|_| watch.depth.is_none_or(|depth| depth == linear.depth))
            else {
                continue;
            };
            let tokens = seen.inputs[linear.input].as_ref().map_or(0, |statistics| statistics.tokens);
            if experts.iter().all(|report| report.expert != expert) {
                let shown_all = tokens < self.material.expert_tokens.max(1);
                experts.push(ExpertReport { expert, tokens, shown_all });
            }
        }
        experts
    }
}

/// ‖y′ − y‖² / ‖y‖²; of a token without any output: 0.
fn relative_square((found, reference): (&[f32], &[f32])) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let whole = square(&mut reference.iter().copied());
    let off = square(&mut found.iter().zip(reference).map(|(found, y)| found - y));
    if whole > 0.0 { off / whole } else { 0.0 }
}

/// Inputs that are not finite make every statistic worthless.
fn refuse_nonfinite(layout: &BlockLayout, seen: &Seen) -> Result<()> {
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
