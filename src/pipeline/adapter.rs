//! The LoRA adapter of an output whose recipe makes up for the error of quantization: laid out before the work, like
//! everything else, and filled in block by block.

use std::sync::Arc;

use serde_json::Value;

use super::blocks::layouts;
use super::made::Made;
use super::output::OutputFiles;
use crate::error::Result;
use crate::export::adapter::Adapter;
use crate::export::{self};
use crate::io::Checkpoint;
use crate::plan::OutputFile;
use crate::plan::Plan;

/// An adapter, and its file among the output's.
pub struct AdapterFile {
    adapter: Adapter,
    /// Its number in the layout.
    file: usize,
    /// Bytes of its header.
    start: u64,
}

impl AdapterFile {
    /// Adds the adapter's file to the layout; `None` where the recipe asks for no adapter.
    ///
    /// # Errors
    /// A model whose blocks llmc cannot take apart.
    pub fn plan(
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
    pub fn write(&self, made: &Made, files: &OutputFiles) -> Result<()> {
        let encoded = made.factors.iter().filter_map(|(name, factors)| self.adapter.encode(name, factors));
        encoded
            .into_iter()
            .try_for_each(|(offset, bytes)| files.write_in(self.file, self.start + offset, &bytes))
    }

    /// What stands beside the weights: (name, content). `target` is the output's path.
    pub fn config(&self, checkpoint: &Checkpoint, target: &str) -> (String, Vec<u8>) {
        let architectures = checkpoint.config.as_ref().and_then(|config| config.get("architectures"));
        let mut names =
            architectures.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let causal = names.any(|name| name.ends_with("ForCausalLM"));
        (export::adapter::CONFIG.to_owned(), self.adapter.config(target, causal))
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
