//! Importance matrices as llama.cpp keeps them: for each linear, Σ x² of the columns of its input, and how many tokens.
//!
//! A GGUF of `general.type` imatrix: for each weight `T`, by its GGUF name, the tensors `T.in_sum2` [matrices, cols] and
//! `T.counts` [matrices, 1] in F32, where experts are stacked; `imatrix.datasets`, `imatrix.chunk_count` and
//! `imatrix.chunk_size` say what was read. Source:
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/imatrix/imatrix.cpp>. Its older form (`.dat`) is read too.
//!
//! Here linears have the checkpoint's names. Tensors that the checkpoint has not are passed over; `in_sum` is not read.

mod entry;
mod legacy;

use std::collections::BTreeMap;
use std::path::Path;

pub use entry::Imatrix;
use entry::{AGAIN, Entry, floats};

use crate::error::{Error, Result};
use crate::io::gguf::write::{Constant, whole};
use crate::io::gguf::{self, Array, Gguf, Metadata, Value};
use crate::io::map::MappedFile;
use crate::io::{Checkpoint, RawTensor};
use crate::model::{self, Arch};
use crate::statistics::Statistics;
use crate::tensor::DType;

const TYPE: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
/// Tensors' names end so.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
impl Imatrix {
    /// Reads a file, for a model.
    ///
    /// # Errors
    /// A file of neither form, or a broken one; sizes that are not the model's; a model without a GGUF form.
    pub fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Imatrix> {
        let arch = architecture(checkpoint)?;
        let file = MappedFile::open(path)?;
        let (mut imatrix, entries) = match gguf::is_gguf(&file) {
            true => entries(path, file.bytes(), &gguf::parse(path, file.bytes())?)?,
            false => legacy::entries(path, file.bytes())?,
        };
        for entry in &entries {
            imatrix.take(path, entry, checkpoint, arch)?;
        }
        match imatrix.linears.is_empty() {
            true => {
                let expected = format!("importance of the tensors of {}", checkpoint.path.display());
                let found = entries.first().map_or("no tensors", |entry| entry.tensor.as_str());
                Err(Error::malformed(path, expected, found, "this is the importance matrix of another model"))
            }
            false => Ok(imatrix),
        }
    }

    /// The bytes of the GGUF. Every expert of a layer must be among the linears, those that saw no token too.
    ///
    /// # Errors
    /// A linear without a name in GGUF, or without sums of squares; a model without a GGUF form.
    pub(crate) fn encode(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
        let arch = architecture(checkpoint)?;
        let mut stacks: BTreeMap<String, BTreeMap<usize, &Statistics>> = BTreeMap::new();
        for (name, statistics) in &self.linears {
            let place = arch.place(name).filter(|_| !statistics.sum_squares.is_empty()).ok_or_else(|| {
                let what = format!("{name}: no name in GGUF, or no sums of squares");
                Error::unsupported(what, "leave it out, or gather the second moment of its inputs")
            })?;
            stacks.entry(place.name).or_default().insert(place.part.unwrap_or(0), statistics);
        }
        let mut tensors = Vec::with_capacity(2 * stacks.len());
        for (tensor, parts) in &stacks {
            let (count, cols) =
                (parts.len(), parts.values().map(|part| part.sum_squares.len()).max().unwrap_or(0));
            if parts.keys().copied().ne(0..count) || parts.values().any(|part| part.sum_squares.len() != cols)
            {
                let what = format!("{tensor}: {count} parts that do not follow each other");
                return Err(Error::unsupported(what, "gather the statistics of every expert of the layer"));
            }
            let sums: Vec<f32> =
                parts.values().flat_map(|part| part.sum_squares.iter().map(|sum| *sum as f32)).collect();
            let counts: Vec<f32> = parts.values().map(|part| part.tokens as f32).collect();
            tensors.push(Constant::new(format!("{tensor}{SUMS}"), vec![count, cols], &sums));
            tensors.push(Constant::new(format!("{tensor}{COUNTS}"), vec![count, 1], &counts));
        }
        whole(&self.metadata(), &tensors)
    }

    fn metadata(&self) -> Metadata {
        let datasets = Value::Array(Array::Strings(self.datasets.clone()));
        Metadata::from_iter([
            ("general.type".to_owned(), Value::String(TYPE.to_owned())),
            (DATASETS.to_owned(), datasets),
            (CHUNK_COUNT.to_owned(), Value::U32(self.chunk_count)),
            (CHUNK_SIZE.to_owned(), Value::U32(self.chunk_size)),
        ])
    }

    /// Takes an entry apart into the checkpoint's linears.
    fn take(&mut self, file: &Path, entry: &Entry, checkpoint: &Checkpoint, arch: &Arch) -> Result<()> {
        let Some(content) = arch.content(&entry.tensor) else { return Ok(()) };
        let Some(source) = checkpoint.tensors.get(&content.hf_name(0)) else { return Ok(()) };
        let cols = source.rows_cols()[1];
        let parts = entry.sums.len() / cols.max(1);
        let fits = parts * cols == entry.sums.len() && (parts == 1 || content.is_stacked());
        if !fits || !(entry.counts.len() == parts || entry.counts.len() == 1) {
            let expected = format!("matrices of {cols} columns, and a count for each");
            let found = format!("{} sums and {} counts", entry.sums.len(), entry.counts.len());
            let hint = "this is the importance matrix of another model";
            return Err(Error::malformed_tensor(file, &entry.tensor, expected, found, hint));
        }
        for (part, sums) in entry.sums.chunks_exact(cols).enumerate() {
            let count = entry.counts.get(part).unwrap_or(&entry.counts[0]);
            let statistics = Statistics {
                tokens: *count as u64,
                sum_squares: sums.iter().map(|sum| f64::from(*sum)).collect(),
                ..Statistics::default()
            };
            self.linears.insert(content.hf_name(part), statistics);
        }
        Ok(())
    }
}

/// The architecture that gives a checkpoint's tensors their names in GGUF.
///
/// # Errors
/// A model without a GGUF form.
pub(crate) fn architecture(checkpoint: &Checkpoint) -> Result<&'static Arch> {
    checkpoint.config.as_ref().and_then(model::find_hf).ok_or_else(|| {
        let what = format!("{}: no architecture with names in GGUF", checkpoint.path.display());
        Error::unsupported(
            what,
            format!("importance matrices name tensors as GGUF does, for {}", model::known()),
        )
    })
}

/// Reads a GGUF: the matrix without its tensors, and these.
fn entries(file: &Path, bytes: &[u8], gguf: &Gguf) -> Result<(Imatrix, Vec<Entry>)> {
    let text = |key: &str| gguf.metadata.get(key).and_then(Value::as_str);
    if text("general.type") != Some(TYPE) {
        let found = format!("general.type {:?}", text("general.type").unwrap_or("not said"));
        return Err(Error::malformed(file, "an importance matrix (general.type imatrix)", found, AGAIN));
    }
    let number = |key: &str| {
        let number = gguf.metadata.get(key).and_then(Value::as_u64);
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    };
    let datasets = gguf.metadata.get(DATASETS).and_then(Value::as_strings).unwrap_or_default().to_vec();
    let imatrix = Imatrix {
        datasets,
        chunk_count: number(CHUNK_COUNT),
        chunk_size: number(CHUNK_SIZE),
        ..Imatrix::default()
    };
    let entry = |raw: &RawTensor| {
        let tensor = raw.name.strip_suffix(SUMS)?;
        Some(counted(file, bytes, gguf, tensor, raw))
    };
    Ok((imatrix, gguf.tensors.iter().filter_map(entry).collect::<Result<_>>()?))
}

fn counted(file: &Path, bytes: &[u8], gguf: &Gguf, tensor: &str, sums: &RawTensor) -> Result<Entry> {
    let name = format!("{tensor}{COUNTS}");
    let counts = gguf.tensors.iter().find(|raw| raw.name == name).ok_or_else(|| {
        Error::malformed_tensor(file, &sums.name, format!("the counts {name} beside it"), "none", AGAIN)
    })?;
    Ok(Entry {
        tensor: tensor.to_owned(),
        sums: values(file, bytes, sums)?,
        counts: values(file, bytes, counts)?,
    })
}

/// The values of a tensor in F32, none of them below zero.
fn values(file: &Path, bytes: &[u8], raw: &RawTensor) -> Result<Vec<f32>> {
    if raw.dtype != DType::F32 {
        return Err(Error::malformed_tensor(file, &raw.name, "F32", raw.dtype.name(), AGAIN));
    }
    floats(file, &raw.name, &bytes[raw.range.clone()])
}

#[cfg(test)]
mod tests;
