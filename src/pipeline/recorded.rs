//! What a calibrated output says of itself, for `verify`: it cannot be made again without the calibration text, but what
//! the method chose is on record, tensor by tensor.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::blocks::BlockReport;
use super::gather::gather;
use super::made::Input;
use crate::error::{Error, Result};
use crate::export::{Output, rows_cols};
use crate::io::Checkpoint;
use crate::plan::Plan;

/// The file of the record, in the output's folder.
pub const RECORD: &str = "calibration.json";

/// What was done to each block.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// In order.
    pub blocks: Vec<BlockReport>,
}

impl Record {
    /// The record of an output; empty where it has none, as single files do.
    pub fn read(written: &Checkpoint) -> Result<Record> {
        let path = written.path.join(RECORD);
        if !path.is_file() {
            return Ok(Record::default());
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        serde_json::from_str(&text).map_err(|e| {
            Error::malformed(
                &path,
                "the record of a calibrated run",
                e,
                "the output was changed since it was made",
            )
        })
    }

    /// The measured scale of a name.
    pub fn scale(&self, name: &str) -> Option<f32> {
        self.blocks.iter().find_map(|block| block.scales.get(name).copied())
    }

    /// The digests of what quantized tensors hold, by the name of their weight.
    pub fn digests(&self) -> HashMap<&str, &str> {
        let linears = self.blocks.iter().flat_map(|block| &block.linears);
        linears
            .filter(|linear| !linear.digest.is_empty())
            .map(|l| (l.name.as_str(), l.digest.as_str()))
            .collect()
    }
}

/// blake3 of values, as little-endian f32.
pub fn digest(values: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for values in values.chunks(1 << 16) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hasher.update(&bytes);
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

/// Whether the recipe's methods change what they leave dense, too.
pub fn rewrites(plan: &Plan) -> bool {
    let request = &plan.request;
    !request.rewriting.is_empty() || request.method.scope() == crate::method::Scope::Block
}

/// Why an output does not hold what was recorded of it, if it does not.
pub fn mismatch(written: &Checkpoint, output: &Output, expected: &str) -> Result<Option<String>> {
    let mut values = Vec::new();
    gather(Input::plain(written), output, 0..rows_cols(&output.shape)[0], &mut values)?;
    Ok((digest(&values) != expected).then(|| "is not what was recorded when it was made".to_owned()))
}
