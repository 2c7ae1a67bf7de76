//! The LoRA adapter of an output with a compensating stage: its layout is planned before the work, and it is filled block by
//! block.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::files::OutputFiles;
use crate::error::Result;
use crate::export::adapter::{self, Adapter};
use crate::io::Checkpoint;
use crate::pipeline::blocks::layouts;
use crate::pipeline::stream::BlockResult;
use crate::plan::{OutputFile, Plan};

/// An adapter, and the place of its file in the output.
pub(crate) struct AdapterFile {
    adapter: Adapter,
    /// Its number in the layout.
    file: usize,
    /// Bytes of its header.
    start: u64,
    /// Bytes of the whole file.
    len: u64,
}

impl AdapterFile {
    /// Adds the adapter's file to the layout; `None` if the recipe has no compensating stage.
    ///
    /// # Errors
    /// A model whose blocks llmc does not support.
    pub(crate) fn plan(
        plan: &Plan,
        checkpoint: &Arc<Checkpoint>,
        layout: &mut Vec<OutputFile>,
    ) -> Result<Option<AdapterFile>> {
        let Some(rank) = plan.request.adapter_rank() else { return Ok(None) };
        let adapter = Adapter::new(linears(plan, checkpoint)?, rank, plan.dtype);
        let planned = adapter.file(&plan.metadata);
        let (file, start, len) = (layout.len(), planned.header.len() as u64, planned.len);
        layout.push(planned);
        Ok(Some(AdapterFile { adapter, file, start, len }))
    }

    /// Writes the factors of a block's linears to their places. Returns blake3 of those of each.
    pub(crate) fn write(
        &self,
        result: &BlockResult,
        files: &OutputFiles,
    ) -> Result<BTreeMap<String, String>> {
        let mut digests = BTreeMap::new();
        for (name, factors) in &result.factors {
            if let Some((offset, bytes)) = self.adapter.encode(name, factors) {
                files.write_in(self.file, self.start + offset, &bytes)?;
                digests.insert(name.clone(), blake3::hash(&bytes).to_hex().to_string());
            }
        }
        Ok(digests)
    }

    /// Returns true if the file still holds factors with these digests.
    pub(crate) fn holds(&self, digests: &BTreeMap<String, String>, files: &OutputFiles) -> Result<bool> {
        for (name, recorded) in digests {
            let place =
                self.adapter.place(name).map(|place| self.start + place.start..self.start + place.end);
            let found = place.map(|place| files.digest(self.file, place)).transpose()?;
            if found.as_ref() != Some(recorded) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns blake3 of the adapter's files, by name: of its configuration file, and of the factors.
    pub(crate) fn digests(
        &self,
        (name, config): &(String, Vec<u8>),
        files: &OutputFiles,
    ) -> Result<BTreeMap<String, String>> {
        let weights = files.digest(self.file, 0..self.len)?;
        let config = blake3::hash(config).to_hex().to_string();
        Ok(BTreeMap::from([(name.clone(), config), (adapter::WEIGHTS.to_owned(), weights)]))
    }

    /// The adapter's configuration file: (name, content). `target` is the output's path.
    pub(crate) fn config(&self, checkpoint: &Checkpoint, target: &str) -> (String, Vec<u8>) {
        let architectures = checkpoint.config.as_ref().and_then(|config| config.get("architectures"));
        let mut names =
            architectures.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let causal = names.any(|name| name.ends_with("ForCausalLM"));
        (adapter::CONFIG.to_owned(), self.adapter.config(target, causal))
    }
}

/// The quantized linears of all blocks, and their shapes.
fn linears(plan: &Plan, checkpoint: &Arc<Checkpoint>) -> Result<Vec<(String, [usize; 2])>> {
    let quantized = plan.schemes();
    let (_, layouts) = layouts(checkpoint)?;
    let places = layouts.into_iter().flat_map(|layout| layout.linears);
    let names = places.map(|place| place.name).filter(|name| quantized.contains_key(name.as_str()));
    let with_shape = |name: String| {
        let shape = checkpoint.source(&name)?.rows_cols();
        Ok((name, shape))
    };
    names.map(with_shape).collect()
}
