//! The LoRA adapter of an output with a compensating stage: its layout is planned before the work, and it is filled block by
//! block.

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
        let (file, start) = (layout.len(), planned.header.len() as u64);
        layout.push(planned);
        Ok(Some(AdapterFile { adapter, file, start }))
    }

    /// Writes the factors of a block's linears to their places.
    pub(crate) fn write(&self, result: &BlockResult, files: &OutputFiles) -> Result<()> {
        let encoded = result.factors.iter().filter_map(|(name, factors)| self.adapter.encode(name, factors));
        encoded
            .into_iter()
            .try_for_each(|(offset, bytes)| files.write_in(self.file, self.start + offset, &bytes))
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
