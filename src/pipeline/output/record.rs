//! The record of a calibrated output, for `verify`. The output cannot be made again without the calibration text, so the
//! record has a digest of each quantized tensor.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::workspace::record_path;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, read_text};
use crate::numerics::{QTensor, convert};
use crate::pipeline::blocks::BlockReport;
use crate::pipeline::stream::{Chunk, Input, gather};
use crate::plan::{OutputTensor, Part, Plan, TensorPlan};
use crate::tensor::{DType, rows_cols};

/// The record of a calibrated run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The reports of the blocks, in order.
    pub blocks: Vec<BlockReport>,
    /// The digests of the output's quantized and pruned tensors, by name.
    #[serde(default)]
    pub digests: BTreeMap<String, String>,
    /// blake3 of the adapter's files, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

impl Record {
    /// Collects the blocks' reports for the output of one format.
    pub(crate) fn of(blocks: &[BlockReport], format: &str) -> Record {
        let digests = blocks.iter().filter_map(|block| block.digests.get(format));
        let digests = digests.flatten().map(|(name, digest)| (name.clone(), digest.clone())).collect();
        let plain = |block: &BlockReport| BlockReport { digests: BTreeMap::new(), ..block.clone() };
        Record { blocks: blocks.iter().map(plain).collect(), digests, files: BTreeMap::new() }
    }

    /// Reads the record of an output, if there is one.
    pub(crate) fn read(written: &Checkpoint) -> Result<Option<Record>> {
        let path = record_path(&written.path);
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        let record = serde_json::from_str(&text).map_err(|e| {
            Error::malformed(
                &path,
                "the record of a calibrated run",
                e,
                "the output was changed since it was made",
            )
        })?;
        Ok(Some(record))
    }

    /// The measured scale of a name.
    pub(crate) fn scale(&self, name: &str) -> Option<f32> {
        self.blocks.iter().find_map(|block| block.scales.get(name).copied())
    }
}

/// Collects the digests of the rows of quantized tensors.
#[derive(Default)]
pub(crate) struct Digests(Mutex<BTreeMap<usize, Rows>>);

/// blake3 of each row, by the first row of a chunk.
type Rows = BTreeMap<usize, Vec<blake3::Hash>>;

impl Digests {
    /// Adds the rows of a chunk, as a reader of the output sees them.
    pub(crate) fn add(&self, chunk: &Chunk, values: &[f32], cols: usize) {
        let rows = row_hashes(values, cols);
        let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.entry(chunk.tensor).or_default().insert(chunk.rows.start, rows);
    }

    /// Takes the digests of whole tensors, by name.
    pub(crate) fn take(&self, plan: &Plan) -> BTreeMap<String, String> {
        let tensors = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let named = |(tensor, rows): (usize, Rows)| {
            (plan.tensors[tensor].output.name.clone(), combine(rows.into_values().flatten()))
        };
        tensors.into_iter().map(named).collect()
    }
}

/// The values of codes as a reader of the output sees them: a format may store them rounded to a float type.
pub(crate) fn stored_values(tensor: &TensorPlan, codes: &QTensor) -> Vec<f32> {
    let mut values = vec![0.0; codes.rows * codes.cols];
    codes.dequantize(&mut values);
    if let [Part { dtype: dtype @ (DType::F32 | DType::F16 | DType::BF16), .. }] = tensor.parts.as_slice() {
        round_to(*dtype, &mut values);
    }
    values
}

/// Rounds values to a float type.
pub(crate) fn round_to(dtype: DType, values: &mut [f32]) {
    let mut bytes = Vec::new();
    convert::from_f32(dtype, values, &mut bytes);
    convert::to_f32(dtype, &bytes, values);
}

fn row_hashes(values: &[f32], cols: usize) -> Vec<blake3::Hash> {
    let hash = |row: &[f32]| {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        blake3::hash(&bytes)
    };
    values.chunks(cols.max(1)).map(hash).collect()
}

/// blake3 over the blake3 of each row, as little-endian f32: chunks of rows come in any order.
fn combine(rows: impl IntoIterator<Item = blake3::Hash>) -> String {
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        hasher.update(row.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Returns the problem of a scale of activations: missing, unusable, or different from the recorded one.
pub(crate) fn wrong_scale(written: &Checkpoint, name: &str, recorded: Option<f32>) -> Option<String> {
    let Some(found) = written.activation_scale(name) else { return Some(format!("{name} is missing")) };
    let divides = found.is_finite() && found > 0.0;
    let differs = recorded.filter(|recorded| *recorded != found);
    match (divides, differs) {
        (false, _) => Some(format!("{name} is {found}, by which nothing can be divided")),
        (true, Some(recorded)) => Some(format!("{name} is {found}, and was {recorded} when it was made")),
        (true, None) => None,
    }
}

/// Returns the problem of a tensor whose values differ from the recorded digest.
pub(crate) fn mismatch(
    written: &Checkpoint,
    output: &OutputTensor,
    expected: &str,
) -> Result<Option<String>> {
    let mut values = Vec::new();
    let [rows, cols] = rows_cols(&output.shape);
    gather(Input::plain(written), output, 0..rows, &mut values)?;
    let found = combine(row_hashes(&values, cols));
    Ok((found != expected).then(|| "is not what was recorded when it was made".to_owned()))
}
