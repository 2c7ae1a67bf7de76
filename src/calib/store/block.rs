//! The file of one block: its bytes, and reading it.

use std::path::Path;

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::{RawTensor, safetensors};
use crate::statistics::{Needs, Statistics};
use crate::tensor::DType;

/// Numbers that are made bytes at a time.
const CHUNK: usize = 1 << 14;
/// The key of the metadata that describes the inputs.
const INPUTS: &str = "inputs";
/// The hint for a broken file.
const AGAIN: &str = "the file is damaged: gather the statistics again with `llmc calibrate`";

/// The statistics of one input of a block, to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    /// The linears that read it, by the names of their weights.
    pub linears: &'a [&'a str],
    /// Its statistics.
    pub statistics: &'a Statistics,
}

/// An input, as the metadata have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Described {
    tokens: u64,
    linears: Vec<String>,
}

/// The name of a block's file.
pub(crate) fn file_name(block: usize) -> String {
    format!("block-{block:05}.safetensors")
}

/// A tensor of the file, borrowed.
enum Values<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl Values<'_> {
    fn byte_len(&self) -> usize {
        match self {
            Values::F32(values) => size_of_val(*values),
            Values::F64(values) => size_of_val(*values),
        }
    }

    fn write<E>(&self, sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Values::F32(values) => values.chunks(CHUNK).try_for_each(|chunk| {
                sink(&chunk.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            }),
            Values::F64(values) => values.chunks(CHUNK).try_for_each(|chunk| {
                sink(&chunk.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            }),
        }
    }
}

/// Hands the bytes of a block's file to `sink`, a piece at a time.
pub(crate) fn encode<E>(inputs: &[Input], mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let tensors: Vec<_> =
        inputs.iter().enumerate().flat_map(|(i, input)| tensors(i, input.statistics)).collect();
    let header = header(inputs, &tensors);
    sink(&(header.len() as u64).to_le_bytes())?;
    sink(header.as_bytes())?;
    tensors.iter().try_for_each(|(_, _, values)| values.write(&mut sink))
}

/// The tensors of input `i`: those that were gathered.
fn tensors(i: usize, statistics: &Statistics) -> Vec<(String, Vec<usize>, Values<'_>)> {
    let Statistics { absmax, sum_abs, sum_squares, gram, .. } = statistics;
    let mut tensors = Vec::new();
    if !absmax.is_empty() {
        tensors.push((format!("{i}.absmax"), vec![absmax.len()], Values::F32(absmax)));
    }
    for (name, sums) in [("sum_abs", sum_abs), ("sum_squares", sum_squares)] {
        if !sums.is_empty() {
            tensors.push((format!("{i}.{name}"), vec![sums.len()], Values::F64(sums)));
        }
    }
    if let Some(gram) = gram {
        let values = gram.as_slice().expect("a Gram matrix is in the standard order");
        tensors.push((format!("{i}.gram"), gram.shape().to_vec(), Values::F32(values)));
    }
    tensors
}

fn header(inputs: &[Input], tensors: &[(String, Vec<usize>, Values)]) -> String {
    let described: Vec<Described> = inputs
        .iter()
        .map(|input| Described {
            tokens: input.statistics.tokens,
            linears: input.linears.iter().map(|name| (*name).to_owned()).collect(),
        })
        .collect();
    let inputs = serde_json::to_string(&described).expect("numbers and names are valid JSON");
    let mut entries = serde_json::Map::new();
    entries
        .insert("__metadata__".into(), json!({ "llmc.version": env!("CARGO_PKG_VERSION"), INPUTS: inputs }));
    let mut end = 0;
    for (name, shape, values) in tensors {
        let (start, dtype) = (end, if matches!(values, Values::F64(_)) { "F64" } else { "F32" });
        end += values.byte_len();
        entries.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    // The data begin at a multiple of eight: a header may end in spaces.
    let header = serde_json::Value::Object(entries).to_string();
    let padded = header.len().next_multiple_of(8);
    format!("{header:padded$}")
}

/// A block's file, opened: its header is read.
#[derive(Debug)]
pub(crate) struct BlockFile {
    file: MappedFile,
    inputs: Vec<Described>,
    tensors: Vec<RawTensor>,
    needs: Needs,
}

impl BlockFile {
    pub(crate) fn open(path: &Path, needs: Needs) -> Result<BlockFile> {
        let file = MappedFile::open(path)?;
        let header = safetensors::parse(path, 0, file.bytes())?;
        let described = header.metadata.get(INPUTS).map(String::as_str).unwrap_or_default();
        let inputs = serde_json::from_str(described).map_err(|e| {
            Error::malformed_tensor(path, INPUTS, "a list of inputs and their linears", e, AGAIN)
        })?;
        Ok(BlockFile { file, inputs, tensors: header.tensors, needs })
    }

    /// The statistics of the input of a linear with so many columns.
    pub(crate) fn statistics(&self, linear: &str, cols: usize) -> Result<Statistics> {
        let reads = |input: &Described| input.linears.iter().any(|name| name == linear);
        let number = self.inputs.iter().position(reads).ok_or_else(|| {
            let hint = "it was left out when they were gathered: run `llmc calibrate` on this model again";
            self.wrong(linear, "statistics of its input", "none", hint)
        })?;
        let mut statistics = Statistics { tokens: self.inputs[number].tokens, ..Statistics::default() };
        let name = |statistic: &str| format!("{number}.{statistic}");
        if self.needs.absmax {
            statistics.absmax = self.f32s(&name("absmax"), &[cols], Sign::NotNegative)?;
        }
        if self.needs.mean_abs {
            statistics.sum_abs = self.f64s(&name("sum_abs"), cols)?;
        }
        if self.needs.second_moment {
            statistics.sum_squares = self.f64s(&name("sum_squares"), cols)?;
        }
        if self.needs.hessian {
            let values = self.f32s(&name("gram"), &[cols, cols], Sign::Any)?;
            statistics.gram =
                Some(Array2::from_shape_vec((cols, cols), values).expect("as long as its shape"));
        }
        Ok(statistics)
    }

    fn f32s(&self, name: &str, shape: &[usize], sign: Sign) -> Result<Vec<f32>> {
        let bytes = self.bytes(name, DType::F32, shape)?;
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        self.check(name, values.iter().map(|value| f64::from(*value)), sign)?;
        Ok(values)
    }

    fn f64s(&self, name: &str, cols: usize) -> Result<Vec<f64>> {
        let bytes = self.bytes(name, DType::F64, &[cols])?;
        let (values, _) = bytes.as_chunks::<8>();
        let values: Vec<f64> = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        self.check(name, values.iter().copied(), Sign::NotNegative)?;
        Ok(values)
    }

    /// The bytes of a tensor that must have this type and shape.
    fn bytes(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<&[u8]> {
        let expected = format!("{} {shape:?}", dtype.name());
        let raw = self.tensors.iter().find(|raw| raw.name == name);
        let raw = raw.ok_or_else(|| self.wrong(name, &expected, "no such tensor", AGAIN))?;
        if raw.dtype != dtype || raw.shape != shape {
            let found = format!("{} {:?}", raw.dtype.name(), raw.shape);
            let hint = "these are statistics of another model, or of a changed one: gather them again";
            return Err(self.wrong(name, &expected, &found, hint));
        }
        Ok(&self.file.bytes()[raw.range.clone()])
    }

    fn check(&self, name: &str, values: impl Iterator<Item = f64>, sign: Sign) -> Result<()> {
        let good = |value: f64| value.is_finite() && (sign == Sign::Any || value >= 0.0);
        match values.enumerate().find(|(_, value)| !good(*value)) {
            None => Ok(()),
            Some((at, value)) => {
                let hint = "the model's activations overflowed, or the file is damaged: calibrate again";
                Err(self.wrong(name, "finite sums", &format!("{value} at {at}"), hint))
            }
        }
    }

    fn wrong(&self, name: &str, expected: &str, found: &str, hint: &str) -> Error {
        Error::malformed_tensor(self.file.path(), name, expected, found, hint)
    }
}

/// The numbers that a statistic may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Any,
    NotNegative,
}
