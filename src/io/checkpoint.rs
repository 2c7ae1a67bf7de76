//! [`Checkpoint`]: an opened model, its shards mapped, its tensors under Hugging Face names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use ndarray::Array2;
use serde_json::Value;

use super::map::MappedFile;
use super::own::folder_of;
use super::side_files::stays_inside;
use super::source::{Cut, RawTensor, SideFile, Source, Stored};
use crate::error::{Error, Result};
use crate::model::{Sizes, Transform};
use crate::numerics::{QTensor, Weight};
use crate::tensor::{DType, rows_cols};

/// An opened model.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The file or folder that was opened.
    pub path: PathBuf,
    /// Mapped weight files, in name order.
    pub files: Vec<MappedFile>,
    /// Logical tensors by name, in the order of the files.
    pub tensors: IndexMap<String, Source>,
    /// config.json, where there is one (rebuilt from the metadata for GGUF).
    pub config: Option<Value>,
    /// Files found beside the weights: see [`Checkpoint::side_files`].
    pub side_files: Vec<SideFile>,
    /// The safetensors `__metadata__` or the GGUF strings, of the first file.
    pub metadata: BTreeMap<String, String>,
    /// Scales of activations by their names in the file: of inputs, of cached keys and values. They are for engines that
    /// round what flows through the model, and no part of the model.
    pub activation_scales: BTreeMap<String, RawTensor>,
    /// Its quantization in words (`gptq, 4 bits, group 128`); `None` for dense checkpoints.
    pub quantization: Option<String>,
    /// Names packed weights that llmc does not read, and the tool that packed them.
    pub packed: Option<String>,
    /// Its sizes before it was cut; `None` where it is whole.
    pub whole: Option<Whole>,
}

/// A checkpoint before it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its sizes.
    pub sizes: Sizes,
    /// Its weights.
    pub weights: u64,
}

impl Checkpoint {
    /// Gives a model whose head is its embedding a head of its own, with the same values.
    pub(crate) fn untie(&mut self, embedding: &str, head: &str) {
        if let Some(source) = self.tensors.get(embedding) {
            let own = Source { name: head.to_owned(), ..source.clone() };
            self.tensors.insert(head.to_owned(), own);
        }
        if let Some(config) = &mut self.config {
            super::heads::untie(config);
        }
    }

    /// config.json on one line; empty where there is none.
    pub(crate) fn config_text(&self) -> String {
        self.config.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// Refuses packed weights that llmc does not read: only their names and shapes are known.
    pub(crate) fn refuse_packed(&self) -> Result<()> {
        let Some(packed) = &self.packed else { return Ok(()) };
        Err(Error::unsupported(
            format!("{}: {packed}", self.path.display()),
            "start from the model's 16-bit checkpoint, or dequantize with the tool that wrote this",
        ))
    }

    /// Everything worth copying beside the weights; for GGUF, rebuilt from the metadata.
    pub(crate) fn side_files(&self) -> Result<Cow<'_, [SideFile]>> {
        match self.files.first().filter(|file| self.side_files.is_empty() && super::gguf::is_gguf(file)) {
            Some(file) => Ok(Cow::Owned(super::gguf::side_files(file)?)),
            None => Ok(Cow::Borrowed(&self.side_files)),
        }
    }

    /// Returns false for a side file that is a link out of the model's folder, with a warning: its content may be anything on
    /// this machine, and must not get into an output.
    pub(crate) fn may_copy(&self, side: &SideFile) -> bool {
        let folder: &Path = if self.path.is_dir() { &self.path } else { folder_of(&self.path) };
        let may = side.bytes.is_some() || stays_inside(folder, &side.path);
        if !may {
            let link = side.path.display();
            tracing::warn!(
                "{link} leads out of the model's folder: not copied; put the file itself in its place"
            );
        }
        may
    }

    /// The tensor of that name.
    pub fn source(&self, name: &str) -> Result<&Source> {
        self.tensors.get(name).ok_or_else(|| {
            Error::malformed_tensor(
                &self.path,
                name,
                "a tensor of that name",
                "none",
                "`llmc inspect` lists the tensors",
            )
        })
    }

    /// One of [`Checkpoint::activation_scales`] that is one number.
    pub fn activation_scale(&self, name: &str) -> Option<f32> {
        let raw = self.activation_scales.get(name).filter(|raw| raw.dtype.is_float())?;
        let bytes = self.files.get(raw.file)?.bytes().get(raw.range.clone())?;
        let mut value = [0.0];
        (raw.dtype.byte_len(&[1]) == Some(bytes.len())).then(|| {
            crate::numerics::convert::to_f32(raw.dtype, bytes, &mut value);
            value[0]
        })
    }

    /// The stored bytes of a dense, untransformed tensor, to be passed through bit for bit. `None` for the others.
    pub fn bytes<'a>(&'a self, source: &Source) -> Option<&'a [u8]> {
        let Stored::Dense(raw) = &source.stored else { return None };
        if source.transform != Transform::None || source.is_edited() {
            return None;
        }
        let rows = source.first_row..source.first_row.checked_add(source.rows_cols()[0])?;
        let bytes = self.files.get(raw.file)?.bytes().get(raw.rows(rows)?)?;
        (raw.dtype.byte_len(&source.shape) == Some(bytes.len())).then_some(bytes)
    }

    /// Reads rows (rows of the shape flattened to [product of all but the last, last]; scalars are [1, 1]) in f32,
    /// dequantizing and undoing the transform. `out` is rows.len()·cols long.
    ///
    /// # Errors
    /// Rows that are not the tensor's, a wrong length of `out`, a tensor of integers.
    pub fn read_rows(&self, source: &Source, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.check_request(source, &rows, Some(out.len()))?;
        if let Some(replacement) = &source.replacement {
            return self.read_rows(replacement, rows, out);
        }
        if let Some(cut) = &source.cut {
            return self.read_cut(&source.whole(), cut, rows, out);
        }
        match &source.stored {
            Stored::Dense(raw) => self.read_dense(source, raw, rows, out),
            Stored::Sparse { parts, .. } => {
                super::quantized::read_sparse(&self.files, source, parts, rows, out)
            }
            Stored::Quantized { .. } => {
                super::quantized::read(&self.files, source, rows)?.dequantize(out);
                Ok(())
            }
        }
    }

    /// Reads the rows and columns of a tensor that a cut has left.
    fn read_cut(&self, whole: &Source, cut: &Cut, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let mut row_values = vec![0.0; whole.rows_cols()[1]];
        let cols = cut.cols.as_ref().map_or(row_values.len(), Vec::len);
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.max(1))) {
            let row = cut.row(row);
            self.read_rows(whole, row..row + 1, &mut row_values)?;
            match &cut.cols {
                None => out.copy_from_slice(&row_values),
                Some(cols) => {
                    out.iter_mut().zip(cols).for_each(|(out, col)| *out = row_values[*col as usize])
                }
            }
        }
        Ok(())
    }

    /// Reads rows of a quantized tensor as codes. `None` where it is stored dense, or cut.
    pub fn read_codes(&self, source: &Source, rows: Range<usize>) -> Result<Option<QTensor>> {
        self.check_request(source, &rows, None)?;
        match &source.stored {
            Stored::Dense(_) | Stored::Sparse { .. } => Ok(None),
            Stored::Quantized { .. } if source.is_edited() => Ok(None),
            Stored::Quantized { .. } => super::quantized::read(&self.files, source, rows).map(Some),
        }
    }

    /// Reads rows as they are stored: codes where they are quantized, GGUF blocks included, values in f32 where they are
    /// dense.
    pub(crate) fn read_weight(&self, source: &Source, rows: Range<usize>) -> Result<Weight> {
        if let Some(codes) = self.read_codes(source, rows.clone())? {
            return Ok(Weight::Quantized(codes));
        }
        if let Some(blocks) = self.read_blocks(source, rows.clone())? {
            return Ok(Weight::Quantized(blocks));
        }
        let mut values = Array2::zeros((rows.len(), source.rows_cols()[1]));
        self.read_rows(source, rows, values.as_slice_mut().expect("a new array is contiguous"))?;
        Ok(Weight::Dense(values))
    }

    /// Rows of GGUF blocks. `None` where it is stored otherwise, or where a transform changes the values themselves.
    fn read_blocks(&self, source: &Source, rows: Range<usize>) -> Result<Option<QTensor>> {
        let Stored::Dense(raw @ RawTensor { dtype: DType::Block(block), .. }) = &source.stored else {
            return Ok(None);
        };
        if source.is_edited() || source.transform != Transform::None && !source.transform.permutes_rows() {
            return Ok(None);
        }
        let [all, cols] = source.rows_cols();
        let mut bytes = Vec::new();
        for row in rows.clone() {
            let stored = source.transform.stored_row(row, all);
            bytes.extend_from_slice(self.stored_bytes(source, raw, stored..stored + 1, cols)?);
        }
        Ok(Some(QTensor::blocks(*block, [rows.len(), cols], bytes)))
    }

    /// Gives the pages of these rows back to the system. Codes lie in memory as their engine likes, so those of a
    /// quantized tensor go when its last rows are given back; so do the parts of one without its zeros.
    pub fn release(&self, source: &Source, rows: Range<usize>) {
        let rows = match &source.cut {
            Some(cut) if !rows.is_empty() => cut.row(rows.start)..cut.row(rows.end - 1) + 1,
            _ => rows,
        };
        match &source.stored {
            Stored::Dense(raw) => {
                let rows =
                    source.first_row.saturating_add(rows.start)..source.first_row.saturating_add(rows.end);
                if let (Some(file), Some(bytes)) = (self.files.get(raw.file), raw.rows(rows)) {
                    file.release(bytes);
                }
            }
            Stored::Sparse { parts, .. } | Stored::Quantized { parts, .. }
                if rows.end >= source.whole().rows_cols()[0] =>
            {
                parts.values().for_each(|part| self.files[part.file].release(part.range.clone()));
            }
            Stored::Sparse { .. } | Stored::Quantized { .. } => {}
        }
    }

    fn read_dense(
        &self,
        source: &Source,
        raw: &RawTensor,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        if !raw.dtype.is_float() {
            let what =
                format!("{}: {} holds {}, not floats", self.path.display(), source.name, raw.dtype.name());
            return Err(Error::unsupported(what, "leave it as it is: it passes through bit for bit"));
        }
        if source.transform.permutes_rows() {
            self.read_permuted(source, raw, rows, out)?;
        } else {
            self.read_stored(source, raw, rows, out)?;
        }
        source.transform.undo(out);
        Ok(())
    }

    /// Row by row, each from where the transform has put it.
    fn read_permuted(
        &self,
        source: &Source,
        raw: &RawTensor,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let [all, cols] = source.rows_cols();
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.max(1))) {
            let stored = source.transform.stored_row(row, all);
            self.read_stored(source, raw, stored..stored + 1, out)?;
        }
        Ok(())
    }

    /// One contiguous conversion.
    fn read_stored(
        &self,
        source: &Source,
        raw: &RawTensor,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let bytes = self.stored_bytes(source, raw, rows, out.len())?;
        crate::numerics::convert::to_f32(raw.dtype, bytes, out);
        Ok(())
    }

    /// The bytes of rows, in the order they are stored in, which hold so many values.
    fn stored_bytes(
        &self,
        source: &Source,
        raw: &RawTensor,
        rows: Range<usize>,
        values: usize,
    ) -> Result<&[u8]> {
        let stored = source.first_row + rows.start..source.first_row + rows.end;
        let bytes = raw.rows(stored.clone()).and_then(|range| self.files.get(raw.file)?.bytes().get(range));
        bytes.filter(|bytes| raw.dtype.byte_len(&[values]) == Some(bytes.len())).ok_or_else(|| {
            let found = format!("{} {:?}", raw.dtype.name(), raw.shape);
            self.wrong_request(source, format!("rows {stored:?} of {values} values"), found)
        })
    }

    fn check_request(&self, source: &Source, rows: &Range<usize>, out_len: Option<usize>) -> Result<()> {
        let [all, cols] = source.rows_cols();
        if rows.start > rows.end || rows.end > all {
            return Err(self.wrong_request(source, format!("rows within 0..{all}"), format!("{rows:?}")));
        }
        match (rows.len().checked_mul(cols), out_len) {
            (Some(expected), Some(found)) if expected != found => Err(self.wrong_request(
                source,
                format!("room for {expected} values"),
                format!("room for {found}"),
            )),
            (None, _) => {
                Err(self.wrong_request(source, "rows that fit in memory".into(), format!("{rows:?}")))
            }
            _ => Ok(()),
        }
    }

    fn wrong_request(&self, source: &Source, expected: String, found: String) -> Error {
        let hint = "this is a mistake in llmc: please report it with the name of the checkpoint";
        Error::malformed_tensor(&self.path, &source.name, expected, found, hint)
    }
}

impl RawTensor {
    /// The bytes of rows within the file; `None` where the tensor has no such rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Option<Range<usize>> {
        let [all, cols] = rows_cols(&self.shape);
        if rows.start > rows.end || rows.end > all {
            return None;
        }
        let row = self.dtype.byte_len(&[cols])?;
        let (start, end) = (rows.start.checked_mul(row)?, rows.end.checked_mul(row)?);
        Some(self.range.start.checked_add(start)?..self.range.start.checked_add(end)?)
    }
}
