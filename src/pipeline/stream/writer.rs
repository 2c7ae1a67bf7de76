//! The loop over chunks: rows are read, quantized or converted, laid out and written to their place.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::block_result::{BlockResult, Input};
use super::chunks::{Chunk, chunks_of};
use super::extents::Extents;
use super::gather::{NonFinite, clear_nonfinite, gather, gather_codes, raw_runs};
use super::rows::quantize_rows;
use super::size::chunk_input_bytes;
use crate::error::{Error, Result};
use crate::export::adapter;
use crate::io::Checkpoint;
use crate::numerics::{QTensor, Scheme, convert};
use crate::pipeline::options::{Options, interrupted};
use crate::pipeline::output::{AdapterFile, Digests, Journal, OutputFiles, stored_values};
use crate::plan::{Action, Piece, Plan, TensorPlan};
use crate::tensor::DType;

/// Tensors with values that are not finite: (name, NaN, infinities).
pub(crate) type NonFinites = Vec<(String, usize, usize)>;

/// Writes the tensors of one output.
pub(crate) struct TensorWriter<'a> {
    pub plan: &'a Plan,
    pub checkpoint: &'a Checkpoint,
    pub files: OutputFiles,
    pub journal: Journal,
    pub adapter: Option<AdapterFile>,
    /// Digests of the quantized tensors, if they are recorded.
    pub digests: Option<Digests>,
    extents: OnceLock<Extents>,
    remaining: Vec<AtomicUsize>,
    options: &'a Options<'a>,
}

impl<'a> TensorWriter<'a> {
    /// Starts with nothing written.
    pub(crate) fn new(
        plan: &'a Plan,
        checkpoint: &'a Checkpoint,
        files: OutputFiles,
        journal: Journal,
        adapter: Option<AdapterFile>,
        options: &'a Options,
    ) -> Self {
        let format = plan.request.format;
        let remaining = plan
            .tensors
            .iter()
            .map(|tensor| AtomicUsize::new(chunks_of(format, 0, tensor).count()))
            .collect();
        let extents = OnceLock::new();
        TensorWriter { plan, checkpoint, files, journal, adapter, digests: None, extents, remaining, options }
    }

    /// Writes the factors of a block to the adapter, if there is one. Returns its folder and the digests of the factors.
    pub(crate) fn write_factors(
        &self,
        result: &BlockResult,
    ) -> Result<Option<(String, BTreeMap<String, String>)>> {
        let Some(adapter) = &self.adapter else { return Ok(None) };
        Ok(Some((adapter::FOLDER.to_owned(), adapter.write(result, &self.files)?)))
    }

    /// Returns true if these tensors of a block, and its factors, are what an earlier run has recorded.
    pub(crate) fn holds(
        &self,
        tensors: &[usize],
        digests: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> Result<bool> {
        let factors = self.adapter.as_ref().zip(digests.get(adapter::FOLDER));
        let whole = factors.map_or(Ok(true), |(adapter, digests)| adapter.holds(digests, &self.files))?;
        Ok(whole && tensors.iter().all(|tensor| self.journal.has(*tensor)))
    }

    /// Finds the extents that schemes need: reads every tensor whose scheme needs one.
    pub(crate) fn find_extents(&self, ends: &BlockResult) -> Result<()> {
        let input = Input { checkpoint: self.checkpoint, result: Some(ends) };
        let extents = Extents::new(self.plan, input, self.options.interrupted)?;
        self.extents.get_or_init(|| extents);
        Ok(())
    }

    /// Takes the digests of the tensors streamed since the last call, with the format's name.
    pub(crate) fn take_digests(&self) -> Option<(String, BTreeMap<String, String>)> {
        let digests = self.digests.as_ref()?.take(self.plan);
        Some((self.plan.request.format.name().to_owned(), digests))
    }

    /// Processes every chunk of some tensors. Returns the tensors with values that are not finite.
    pub(crate) fn stream(
        &self,
        tensors: impl Iterator<Item = usize> + Send,
        result: &BlockResult,
    ) -> Result<NonFinites> {
        let format = self.plan.request.format;
        let counts: HashMap<usize, NonFinite> = tensors
            .flat_map(|index| chunks_of(format, index, &self.plan.tensors[index]))
            .par_bridge()
            .map(|chunk| {
                let found = self.process(&chunk, result)?;
                self.finish(&chunk)?;
                Ok((chunk.tensor, found))
            })
            .filter(|result| !matches!(result, Ok((_, found)) if found.none()))
            .try_fold(HashMap::new, |mut counts: HashMap<usize, NonFinite>, result| {
                let (tensor, found) = result?;
                counts.entry(tensor).or_default().add(found);
                Ok::<_, Error>(counts)
            })
            .try_reduce(HashMap::new, |mut all, counts| {
                counts.into_iter().for_each(|(tensor, found)| all.entry(tensor).or_default().add(found));
                Ok(all)
            })?;
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(tensor, _)| *tensor);
        Ok(counts
            .into_iter()
            .map(|(tensor, f)| (self.plan.tensors[tensor].output.name.clone(), f.nan, f.inf))
            .collect())
    }

    fn process(&self, chunk: &Chunk, result: &BlockResult) -> Result<NonFinite> {
        if self.options.interrupted.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        let tensor = &self.plan.tensors[chunk.tensor];
        let input = Input { checkpoint: self.checkpoint, result: Some(result) };
        if chunk.rows.start == 0 {
            self.write_scales(chunk.tensor, tensor, result)?;
        }
        match &tensor.action {
            Action::Store(dtype) => self.store(input, tensor, chunk, *dtype),
            Action::Quantize(scheme) => self.quantize(input, tensor, chunk, scheme),
        }
    }

    /// The measured scales of tensors, by the names that they are stored under.
    pub(crate) fn scales(&self, tensors: &[usize], result: &BlockResult) -> Vec<(String, f32)> {
        let of_tensor = |tensor: &TensorPlan| {
            let scale = |(what, part): (_, usize)| {
                Some((tensor.parts[part].name.clone(), result.scale(&tensor.output, what)?))
            };
            tensor.scales().filter_map(scale).collect::<Vec<_>>()
        };
        tensors.iter().flat_map(|&tensor| of_tensor(&self.plan.tensors[tensor])).collect()
    }

    fn write_scales(&self, index: usize, tensor: &TensorPlan, result: &BlockResult) -> Result<()> {
        for (what, part) in tensor.scales() {
            let scale = result.scale(&tensor.output, what).ok_or_else(|| unmeasured(tensor))?;
            self.files.write(index, part, 0, &scale.to_le_bytes())?;
        }
        Ok(())
    }

    fn store(&self, input: Input, tensor: &TensorPlan, chunk: &Chunk, dtype: DType) -> Result<NonFinite> {
        let offset = (chunk.rows.start * row_bytes(tensor, dtype)) as u64;
        if let Some(runs) = raw_runs(input, &tensor.output, chunk.rows.clone(), dtype)? {
            let found = runs.iter().map(|run| NonFinite::count_stored(dtype, run)).sum();
            self.check_finite(input, tensor, found)?;
            self.write_runs(chunk.tensor, offset, &runs)?;
            return Ok(found);
        }
        let mut values = Vec::new();
        gather(input, &tensor.output, chunk.rows.clone(), &mut values)?;
        let mut bytes = Vec::new();
        convert::from_f32(dtype, &values, &mut bytes);
        if let (Some(digests), true) = (&self.digests, tensor.is_recorded()) {
            convert::to_f32(dtype, &bytes, &mut values);
            digests.add(chunk, &values, tensor.rows_cols()[1]);
        }
        // Rewritten values may be too large for the model's own type.
        let found = match input.rewrites_any(&tensor.output) {
            true => NonFinite::count_stored(dtype, &bytes),
            false => NonFinite::count(&values),
        };
        self.check_finite(input, tensor, found)?;
        self.write_runs(chunk.tensor, offset, &[&bytes])?;
        Ok(found)
    }

    /// Writes runs of bytes one after the other into a tensor's first part.
    fn write_runs(&self, tensor: usize, mut offset: u64, runs: &[&[u8]]) -> Result<()> {
        runs.iter().try_for_each(|run| {
            self.files.write(tensor, 0, offset, run)?;
            offset += run.len() as u64;
            Ok(())
        })
    }

    fn quantize(
        &self,
        input: Input,
        tensor: &TensorPlan,
        chunk: &Chunk,
        scheme: &Scheme,
    ) -> Result<NonFinite> {
        let codes = gather_codes(input, &tensor.output, chunk.rows.clone())?.filter(|q| stores(scheme, q));
        let (codes, found) = match codes {
            Some(codes) => (codes, NonFinite::default()),
            None => self.quantize_values(input, tensor, chunk, scheme)?,
        };
        let codes = codes.with_scales(scheme.scale);
        if let Some(digests) = &self.digests {
            digests.add(chunk, &stored_values(tensor, &codes), codes.cols);
        }
        let mut sink =
            |part: usize, offset: u64, bytes: &[u8]| self.files.write(chunk.tensor, part, offset, bytes);
        self.plan.request.format.encode(&codes, chunk.rows.start, &tensor.parts, &mut sink)?;
        Ok(found)
    }

    /// Runs the method on the chunk's values, those of each source with the importance of its own columns.
    fn quantize_values(
        &self,
        input: Input,
        tensor: &TensorPlan,
        chunk: &Chunk,
        scheme: &Scheme,
    ) -> Result<(QTensor, NonFinite)> {
        let mut found = NonFinite::default();
        let mut quantized = Vec::new();
        for (rows, importance) in runs_of(input, tensor, chunk) {
            let mut values = Vec::new();
            gather(input, &tensor.output, rows, &mut values)?;
            let here = self.check_finite(input, tensor, NonFinite::count(&values))?;
            if !here.none() {
                clear_nonfinite(&mut values);
            }
            found.add(here);
            let stored = || self.extents.get().and_then(|extents| extents.of(chunk.tensor, tensor));
            let extent = input.extent(&tensor.output).or_else(stored);
            let method = self.plan.request.rowwise.as_ref();
            quantized.push(quantize_rows(method, tensor, scheme, extent, importance, values)?);
        }
        Ok((QTensor::stack(quantized), found))
    }

    /// Returns the counts if they are zero or allowed; else counts in the whole tensor, for the error.
    fn check_finite(&self, input: Input, tensor: &TensorPlan, found: NonFinite) -> Result<NonFinite> {
        if found.none() || self.plan.request.recipe.allow_nonfinite {
            return Ok(found);
        }
        if input.rewrites_any(&tensor.output) {
            return Err(overflows(tensor, &self.plan.request.recipe.method_names()));
        }
        let [rows, _] = tensor.rows_cols();
        let mut all = Vec::new();
        let mut total = NonFinite::default();
        for row in 0..rows {
            gather(Input::plain(self.checkpoint), &tensor.output, row..row + 1, &mut all)?;
            total.add(NonFinite::count(&all));
        }
        Err(total.refusal(&self.checkpoint.path, &tensor.output.name, tensor.elements()))
    }

    /// Releases the input pages of a chunk: chunk by chunk if its rows are consecutive in one source, else with the tensor's
    /// last chunk.
    fn release(&self, tensor: &TensorPlan, chunk: &Chunk) {
        let release = |piece: &Piece, rows: Range<usize>| {
            if let Some(source) = self.checkpoint.tensors.get(&piece.source) {
                self.checkpoint.release(source, rows);
            }
        };
        match tensor.output.pieces.as_slice() {
            [piece] if !tensor.output.transform.permutes_rows() => {
                release(piece, piece.rows.start + chunk.rows.start..piece.rows.start + chunk.rows.end);
            }
            pieces if self.remaining[chunk.tensor].load(Ordering::Relaxed) == 1 => {
                pieces.iter().for_each(|piece| release(piece, piece.rows.clone()));
            }
            _ => {}
        }
    }

    /// Counts the chunk as done. After the last chunk of a tensor, the tensor is journaled.
    fn finish(&self, chunk: &Chunk) -> Result<()> {
        let tensor = &self.plan.tensors[chunk.tensor];
        self.release(tensor, chunk);
        self.options.progress.inc(chunk_input_bytes(self.checkpoint, tensor, chunk));
        if self.remaining[chunk.tensor].fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::debug!(tensor = tensor.output.name, stored = %tensor.action, "finished");
            self.journal.done(chunk.tensor, tensor.bytes(), &self.files)?;
        }
        Ok(())
    }
}

/// The error of a scale of a tensor that calibration cannot observe.
pub(crate) fn unmeasured(tensor: &TensorPlan) -> Error {
    Error::unsupported(
        format!(
            "{}: it is in no decoder block, where calibration could measure its scales",
            tensor.output.name
        ),
        "--exclude leaves it dense",
    )
}

/// The error of weights that stages have made too large, in a sound checkpoint.
fn overflows(tensor: &TensorPlan, methods: &str) -> Error {
    Error::unsupported(
        format!(
            "{}: {methods} makes values of it that are not finite as {}",
            tensor.output.name, tensor.action
        ),
        "leave out the stage that rewrites, or give dense weights a wider type: --dtype bf16",
    )
}

/// Returns true if a tensor can store these codes: they have its scheme, except for the type of the scales.
fn stores(scheme: &Scheme, codes: &QTensor) -> bool {
    Scheme { scale: codes.scheme().scale, ..*scheme } == codes.scheme()
}

/// The rows of a chunk, split where the importance of columns changes.
fn runs_of<'a>(
    input: Input<'a>,
    tensor: &'a TensorPlan,
    chunk: &Chunk,
) -> Vec<(Range<usize>, Option<Vec<f32>>)> {
    let all = chunk.rows.clone();
    match input.result.filter(|result| !result.importance.is_empty() && !all.is_empty()) {
        None => vec![(all, None)],
        Some(result) => {
            result.by_importance(&tensor.output, all).map(|(rows, table)| (rows, table.cloned())).collect()
        }
    }
}

fn row_bytes(tensor: &TensorPlan, dtype: DType) -> usize {
    let [_, cols] = tensor.rows_cols();
    cols / dtype.block_elements() * dtype.block_bytes()
}
