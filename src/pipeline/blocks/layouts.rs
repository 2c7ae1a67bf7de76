//! The layouts of all blocks of a checkpoint.

use std::sync::Arc;

use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, Model, Weights, block_layout, stored_layout};

/// The configuration of a model, and a layout without linears for each of its blocks: none is looked at, and any model that runs
/// will do.
///
/// # Errors
/// An architecture that llmc does not support.
pub(crate) fn unobserved(checkpoint: &Arc<Checkpoint>) -> Result<(Model, Vec<BlockLayout>)> {
    let model = CheckpointWeights(Arc::clone(checkpoint)).model()?;
    let layouts = vec![BlockLayout::default(); model.layers.len()];
    Ok((model, layouts))
}

/// The configuration of a model, and the layout of each of its blocks.
///
/// # Errors
/// An architecture that llmc does not support; linears that are stored [in, out].
pub(crate) fn layouts(checkpoint: &Arc<Checkpoint>) -> Result<(Model, Vec<BlockLayout>)> {
    described(checkpoint, block_layout)
}

/// The same of a model whose linears may be stored [in, out].
///
/// # Errors
/// An architecture that llmc does not support.
pub(crate) fn stored_layouts(checkpoint: &Arc<Checkpoint>) -> Result<(Model, Vec<BlockLayout>)> {
    described(checkpoint, stored_layout)
}

fn described(
    checkpoint: &Arc<Checkpoint>,
    layout: fn(&Model, &dyn Weights, usize) -> Result<BlockLayout>,
) -> Result<(Model, Vec<BlockLayout>)> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let model = stored.model()?;
    let layouts = (0..model.layers.len()).map(|block| layout(&model, &stored, block));
    let layouts = layouts.collect::<Result<_>>()?;
    Ok((model, layouts))
}
