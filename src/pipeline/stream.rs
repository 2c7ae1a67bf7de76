//! The loop over chunks: rows are read, quantized or converted, laid out and written to their place.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Array2;
use rayon::prelude::*;

use super::adapter::AdapterFile;
use super::chunks::{Chunk, chunks_of};
use super::extents::Extents;
use super::gather::{NonFinite, clear_nonfinite, gather, gather_codes, raw_runs};
use super::journal::Journal;
use super::made::{Input, Made};
use super::output::OutputFiles;
use super::recorded::Digests;
use super::{Options, interrupted};
use crate::error::{Error, Result};
use crate::export::{Output, Piece};
use crate::io::Checkpoint;
use crate::method::{Block, Linear, Method};
use crate::numerics::{Extent, QTensor, Scheme, Weight, convert};
use crate::plan::{Action, Plan, Step};
use crate::tensor::DType;

/// Tensors with values that are not finite: (name, NaN, infinities).
pub type NonFinites = Vec<(String, usize, usize)>;

/// One output in the making.
pub struct Run<'a> {
    pub plan: &'a Plan,
    pub checkpoint: &'a Checkpoint,
    pub files: OutputFiles,
    pub journal: Journal,
    pub adapter: Option<AdapterFile>,
    /// Of what it stores of quantized linears, where that is recorded.
    pub digests: Option<Digests>,
    extents: OnceLock<Extents>,
    remaining: Vec<AtomicUsize>,
    options: &'a Options<'a>,
}

impl<'a> Run<'a> {
    /// Nothing done yet.
    pub fn new(
        plan: &'a Plan,
        checkpoint: &'a Checkpoint,
        files: OutputFiles,
        journal: Journal,
        adapter: Option<AdapterFile>,
        options: &'a Options,
    ) -> Self {
        let format = plan.request.format;
        let remaining =
            plan.steps.iter().map(|step| AtomicUsize::new(chunks_of(format, 0, step).count())).collect();
        let extents = OnceLock::new();
        Run { plan, checkpoint, files, journal, adapter, digests: None, extents, remaining, options }
    }

    /// Writes what makes up for the error of a block's codes, where there is such a thing.
    pub fn write_factors(&self, made: &Made) -> Result<()> {
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.write(made, &self.files))
    }

    /// Finds out what schemes must know beforehand: reads every tensor whose scheme asks for it.
    pub fn find_extents(&self, ends: &Made) -> Result<()> {
        let input = Input { checkpoint: self.checkpoint, made: Some(ends) };
        let extents = Extents::new(self.plan, input, self.options.interrupted)?;
        self.extents.get_or_init(|| extents);
        Ok(())
    }

    /// The digests of what was streamed since they were last taken, under the format's name.
    pub fn take_digests(&self) -> Option<(String, BTreeMap<String, String>)> {
        let digests = self.digests.as_ref()?.take(self.plan);
        Some((self.plan.request.format.name().to_owned(), digests))
    }

    /// Processes every chunk of some steps; returns what was not finite: (name, NaN,
    /// infinities).
    pub fn stream(&self, steps: impl Iterator<Item = usize> + Send, made: &Made) -> Result<NonFinites> {
        let format = self.plan.request.format;
        let counts: HashMap<usize, NonFinite> = steps
            .flat_map(|index| chunks_of(format, index, &self.plan.steps[index]))
            .par_bridge()
            .map(|chunk| {
                let found = self.process(&chunk, made)?;
                self.finish(&chunk)?;
                Ok((chunk.step, found))
            })
            .filter(|result| !matches!(result, Ok((_, found)) if found.none()))
            .try_fold(HashMap::new, |mut counts: HashMap<usize, NonFinite>, result| {
                let (step, found) = result?;
                counts.entry(step).or_default().add(found);
                Ok::<_, Error>(counts)
            })
            .try_reduce(HashMap::new, |mut all, counts| {
                counts.into_iter().for_each(|(step, found)| all.entry(step).or_default().add(found));
                Ok(all)
            })?;
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(step, _)| *step);
        Ok(counts
            .into_iter()
            .map(|(step, f)| (self.plan.steps[step].output.name.clone(), f.nan, f.inf))
            .collect())
    }

    fn process(&self, chunk: &Chunk, made: &Made) -> Result<NonFinite> {
        if self.options.interrupted.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        let step = &self.plan.steps[chunk.step];
        let input = Input { checkpoint: self.checkpoint, made: Some(made) };
        if chunk.rows.start == 0 {
            self.write_scales(chunk.step, step, made)?;
        }
        match &step.action {
            Action::Store(dtype) => self.store(input, step, chunk, *dtype),
            Action::Quantize(scheme) => self.quantize(input, step, chunk, scheme),
        }
    }

    /// The measured scales of steps, by the names that they are stored under.
    pub fn scales(&self, steps: &[usize], made: &Made) -> Vec<(String, f32)> {
        let of_step = |step: &Step| {
            let scale = |(what, part): (_, usize)| {
                Some((step.parts[part].name.clone(), made.scale(&step.output, what)?))
            };
            step.scales().filter_map(scale).collect::<Vec<_>>()
        };
        steps.iter().flat_map(|&step| of_step(&self.plan.steps[step])).collect()
    }

    fn write_scales(&self, index: usize, step: &Step, made: &Made) -> Result<()> {
        for (what, part) in step.scales() {
            let scale = made.scale(&step.output, what).ok_or_else(|| unmeasured(step))?;
            self.files.write(index, part, 0, &scale.to_le_bytes())?;
        }
        Ok(())
    }

    fn store(&self, input: Input, step: &Step, chunk: &Chunk, dtype: DType) -> Result<NonFinite> {
        let offset = (chunk.rows.start * row_bytes(step, dtype)) as u64;
        if let Some(runs) = raw_runs(input, &step.output, chunk.rows.clone(), dtype)? {
            let found = runs.iter().map(|run| NonFinite::count_stored(dtype, run)).sum();
            self.check_finite(input, step, found)?;
            self.write_runs(chunk.step, offset, &runs)?;
            return Ok(found);
        }
        let mut values = Vec::new();
        gather(input, &step.output, chunk.rows.clone(), &mut values)?;
        let mut bytes = Vec::new();
        convert::from_f32(dtype, &values, &mut bytes);
        // What a stage has rewritten may be too large for the model's own type.
        let found = match input.rewrites_any(&step.output) {
            true => NonFinite::count_stored(dtype, &bytes),
            false => NonFinite::count(&values),
        };
        self.check_finite(input, step, found)?;
        self.write_runs(chunk.step, offset, &[&bytes])?;
        Ok(found)
    }

    /// Writes runs of bytes one after the other into a step's first part.
    fn write_runs(&self, step: usize, mut offset: u64, runs: &[&[u8]]) -> Result<()> {
        runs.iter().try_for_each(|run| {
            self.files.write(step, 0, offset, run)?;
            offset += run.len() as u64;
            Ok(())
        })
    }

    fn quantize(&self, input: Input, step: &Step, chunk: &Chunk, scheme: &Scheme) -> Result<NonFinite> {
        let made = gather_codes(input, &step.output, chunk.rows.clone())?.filter(|q| stores(scheme, q));
        let (codes, found) = match made {
            Some(codes) => (codes, NonFinite::default()),
            None => self.quantize_values(input, step, chunk, scheme)?,
        };
        let codes = codes.with_scales(scheme.scale);
        if let Some(digests) = &self.digests {
            digests.add(chunk, step, &codes);
        }
        let mut sink =
            |part: usize, offset: u64, bytes: &[u8]| self.files.write(chunk.step, part, offset, bytes);
        self.plan.request.format.encode(&codes, chunk.rows.start, &step.parts, &mut sink)?;
        Ok(found)
    }

    /// Runs the method on the chunk's values, those of each source with the importance of its own columns.
    fn quantize_values(
        &self,
        input: Input,
        step: &Step,
        chunk: &Chunk,
        scheme: &Scheme,
    ) -> Result<(QTensor, NonFinite)> {
        let mut found = NonFinite::default();
        let mut quantized = Vec::new();
        for (rows, importance) in runs_of(input, step, chunk) {
            let mut values = Vec::new();
            gather(input, &step.output, rows, &mut values)?;
            let here = self.check_finite(input, step, NonFinite::count(&values))?;
            if !here.none() {
                clear_nonfinite(&mut values);
            }
            found.add(here);
            let stored = || self.extents.get().and_then(|extents| extents.of(chunk.step, step));
            let extent = input.extent(&step.output).or_else(stored);
            let method = self.plan.request.rowwise.as_ref();
            quantized.push(quantize_rows(method, step, scheme, extent, importance, values)?);
        }
        Ok((QTensor::stack(quantized), found))
    }

    /// Passes on what was found, where it is nothing, or allowed; else counts it in the whole tensor for the error.
    fn check_finite(&self, input: Input, step: &Step, found: NonFinite) -> Result<NonFinite> {
        if found.none() || self.plan.recipe.allow_nonfinite {
            return Ok(found);
        }
        if input.rewrites_any(&step.output) {
            return Err(overflows(step, &self.plan.recipe.method_names()));
        }
        let [rows, _] = step.rows_cols();
        let mut all = Vec::new();
        let mut total = NonFinite::default();
        for row in 0..rows {
            gather(Input::plain(self.checkpoint), &step.output, row..row + 1, &mut all)?;
            total.add(NonFinite::count(&all));
        }
        Err(total.refusal(&self.checkpoint.path, &step.output.name, step.elements()))
    }

    /// Gives the input pages of a chunk back to the system: chunk by chunk where its rows are consecutive in one source,
    /// and else with the step's last chunk.
    fn release(&self, step: &Step, chunk: &Chunk) {
        let release = |piece: &Piece, rows: Range<usize>| {
            if let Some(source) = self.checkpoint.tensors.get(&piece.source) {
                self.checkpoint.release(source, rows);
            }
        };
        match step.output.pieces.as_slice() {
            [piece] if !step.output.transform.permutes_rows() => {
                release(piece, piece.rows.start + chunk.rows.start..piece.rows.start + chunk.rows.end);
            }
            pieces if self.remaining[chunk.step].load(Ordering::Relaxed) == 1 => {
                pieces.iter().for_each(|piece| release(piece, piece.rows.clone()));
            }
            _ => {}
        }
    }

    /// Counts the chunk as done; the step's last one is journaled.
    fn finish(&self, chunk: &Chunk) -> Result<()> {
        let step = &self.plan.steps[chunk.step];
        self.release(step, chunk);
        self.options.progress.inc(chunk_input_bytes(self.checkpoint, step, chunk));
        if self.remaining[chunk.step].fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::debug!(tensor = step.output.name, stored = %step.action, "finished");
            self.journal.done(chunk.step, step.bytes(), &self.files)?;
        }
        Ok(())
    }
}

/// A scale is asked for where calibration sees nothing.
pub fn unmeasured(step: &Step) -> Error {
    Error::unsupported(
        format!(
            "{}: it is in no decoder block, where calibration could measure its scales",
            step.output.name
        ),
        "--exclude leaves it dense",
    )
}

/// Weights that stages have made too large, of a checkpoint that is sound.
fn overflows(step: &Step, methods: &str) -> Error {
    Error::unsupported(
        format!("{}: {methods} makes values of it that are not finite as {}", step.output.name, step.action),
        "leave out the stage that rewrites, or give dense weights a wider type: --dtype bf16",
    )
}

/// Whether codes that calibration made are what a step stores: of its scheme, but for the type of the scales.
fn stores(scheme: &Scheme, made: &QTensor) -> bool {
    Scheme { scale: made.scheme().scale, ..*scheme } == made.scheme()
}

/// The rows of a chunk, apart where the importance of columns is.
fn runs_of<'a>(input: Input<'a>, step: &'a Step, chunk: &Chunk) -> Vec<(Range<usize>, Option<Vec<f32>>)> {
    let all = chunk.rows.clone();
    match input.made.filter(|made| !made.importance.is_empty() && !all.is_empty()) {
        None => vec![(all, None)],
        Some(made) => {
            made.by_importance(&step.output, all).map(|(rows, table)| (rows, table.cloned())).collect()
        }
    }
}

/// Runs a method on rows of one linear.
pub fn quantize_rows(
    method: &dyn Method,
    step: &Step,
    scheme: &Scheme,
    extent: Option<Extent>,
    importance: Option<Vec<f32>>,
    values: Vec<f32>,
) -> Result<QTensor> {
    let [_, cols] = step.rows_cols();
    let rows = values.len().checked_div(cols).unwrap_or(0);
    let dense = Array2::from_shape_vec((rows, cols), values).expect("gather returns rows x cols values");
    let alone = Linear::alone(&step.output.name, *scheme, Weight::Dense(dense));
    let mut block = Block { linears: vec![Linear { extent, importance, ..alone }], ..Block::default() };
    method.apply(&mut block)?;
    match block.linears.pop().map(|linear| linear.weight) {
        Some(Weight::Quantized(q)) => Ok(q),
        _ => unreachable!("a quantization method returns codes"),
    }
}

fn row_bytes(step: &Step, dtype: DType) -> usize {
    let [_, cols] = step.rows_cols();
    cols / dtype.block_elements() * dtype.block_bytes()
}

/// Bytes of the input that an output is made from.
pub fn input_bytes(checkpoint: &Checkpoint, output: &Output) -> u64 {
    let piece_bytes = |piece: &Piece| {
        let source = checkpoint.tensors.get(&piece.source)?;
        let [rows, _] = crate::export::rows_cols(&source.shape);
        Some(source.stored_bytes() * piece.rows.len() as u64 / rows.max(1) as u64)
    };
    output.pieces.iter().filter_map(piece_bytes).sum()
}

/// The chunk's share of them.
pub fn chunk_input_bytes(checkpoint: &Checkpoint, step: &Step, chunk: &Chunk) -> u64 {
    let [rows, _] = step.rows_cols();
    input_bytes(checkpoint, &step.output) * chunk.rows.len() as u64 / rows.max(1) as u64
}
