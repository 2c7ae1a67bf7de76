//! Safetensors files: which part goes into which shard, headers, index.

use super::OutputFile;
use crate::error::Result;
use crate::plan::Plan;

/// Shards by the recipe's `max_shard_size`, and their headers.
pub fn files(_plan: &Plan) -> Result<Vec<OutputFile>> {
    todo!()
}
