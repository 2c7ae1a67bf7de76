//! The layouts of all blocks of a checkpoint.

use std::sync::Arc;

use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, Config, block_layout};

/// How a model is made, and what its blocks are made of.
///
/// # Errors
/// An architecture that llmc cannot run, or one whose blocks it cannot take apart.
pub fn layouts(checkpoint: &Arc<Checkpoint>) -> Result<(Config, Vec<BlockLayout>)> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let config = stored.config()?;
    let layouts = (0..config.layers.len()).map(|block| block_layout(&config, &stored, block));
    let layouts = layouts.collect::<Result<_>>()?;
    Ok((config, layouts))
}
