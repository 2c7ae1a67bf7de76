//! What a calibrated output says of itself, for `verify`: it cannot be made again without the calibration text, but what
//! the method chose is on record, tensor by tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::blocks::BlockReport;
use super::chunks::Chunk;
use super::gather::gather;
use super::made::Input;
use super::output::sibling;
use crate::error::{Error, Result};
use crate::export::{Output, Part, rows_cols};
use crate::io::Checkpoint;
use crate::numerics::convert;
use crate::plan::{Plan, Step};
use crate::tensor::{DType, QTensor};

/// The file of the record, in the output's folder; the end of its name where the output is one file.
pub const RECORD: &str = "calibration.json";

/// The record of an output that is one file: it is beside it.
pub fn record_beside(file: &Path) -> PathBuf {
    sibling(file, &format!(".{RECORD}"))
}

/// What was done to each block.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// In order.
    pub blocks: Vec<BlockReport>,
    /// The digests of what the output's quantized tensors hold, by name.
    #[serde(default)]
    pub digests: BTreeMap<String, String>,
}

impl Record {
    /// What the blocks' reports say of the output of one format.
    pub fn of(blocks: &[BlockReport], format: &str) -> Record {
        let digests = blocks.iter().filter_map(|block| block.digests.get(format));
        let digests = digests.flatten().map(|(name, digest)| (name.clone(), digest.clone())).collect();
        let plain = |block: &BlockReport| BlockReport { digests: BTreeMap::new(), ..block.clone() };
        Record { blocks: blocks.iter().map(plain).collect(), digests }
    }

    /// Returns the place of an output's record.
    pub fn path(written: &Checkpoint) -> PathBuf {
        if written.path.is_dir() { written.path.join(RECORD) } else { record_beside(&written.path) }
    }

    /// Reads the record of an output, if there is one.
    pub fn read(written: &Checkpoint) -> Result<Option<Record>> {
        let path = Record::path(written);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
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
    pub fn scale(&self, name: &str) -> Option<f32> {
        self.blocks.iter().find_map(|block| block.scales.get(name).copied())
    }
}

/// What quantized tensors hold: digests of their rows, in the making.
#[derive(Default)]
pub struct Digests(Mutex<BTreeMap<usize, Rows>>);

/// blake3 of each row from some first one on.
type Rows = BTreeMap<usize, Vec<blake3::Hash>>;

impl Digests {
    /// Adds the rows of a chunk.
    pub fn add(&self, chunk: &Chunk, step: &Step, codes: &QTensor) {
        let rows = row_hashes(&stored_values(step, codes), codes.cols);
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.entry(chunk.step).or_default().insert(chunk.rows.start, rows);
    }

    /// The digests of whole tensors, by name; then it is empty.
    pub fn take(&self, plan: &Plan) -> BTreeMap<String, String> {
        let steps = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let named = |(step, rows): (usize, Rows)| {
            (plan.steps[step].output.name.clone(), combine(rows.into_values().flatten()))
        };
        steps.into_iter().map(named).collect()
    }
}

/// The values that codes stand for, as a reader of the output has them: a format may store them rounded to a float type.
pub fn stored_values(step: &Step, codes: &QTensor) -> Vec<f32> {
    let mut values = vec![0.0; codes.rows * codes.cols];
    codes.dequantize(&mut values);
    if let [Part { dtype: dtype @ (DType::F32 | DType::F16 | DType::BF16), .. }] = step.parts.as_slice() {
        round_to(*dtype, &mut values);
    }
    values
}

/// Rounds values to what a type holds.
pub fn round_to(dtype: DType, values: &mut [f32]) {
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

/// blake3 over the blake3 of each row, as little-endian f32: rows are made in any order.
fn combine(rows: impl IntoIterator<Item = blake3::Hash>) -> String {
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        hasher.update(row.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Why a scale of activations is not one, or not the one that was recorded, if it is not.
pub fn wrong_scale(written: &Checkpoint, name: &str, recorded: Option<f32>) -> Option<String> {
    let Some(found) = written.activation_scale(name) else { return Some(format!("{name} is missing")) };
    let divides = found.is_finite() && found > 0.0;
    let differs = recorded.filter(|recorded| *recorded != found);
    match (divides, differs) {
        (false, _) => Some(format!("{name} is {found}, by which nothing can be divided")),
        (true, Some(recorded)) => Some(format!("{name} is {found}, and was {recorded} when it was made")),
        (true, None) => None,
    }
}

/// Why an output does not hold what was recorded of it, if it does not.
pub fn mismatch(written: &Checkpoint, output: &Output, expected: &str) -> Result<Option<String>> {
    let mut values = Vec::new();
    let [rows, cols] = rows_cols(&output.shape);
    gather(Input::plain(written), output, 0..rows, &mut values)?;
    let found = combine(row_hashes(&values, cols));
    Ok((found != expected).then(|| "is not what was recorded when it was made".to_owned()))
}
