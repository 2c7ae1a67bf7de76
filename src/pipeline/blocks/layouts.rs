//! The layouts of all blocks of a checkpoint.

use std::sync::Arc;

use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, Config, block_layout};

/// The configuration of a model, and the layout of each of its blocks.
///
/// # Errors
/// An architecture that llmc does not support.
pub fn layouts(checkpoint: &Arc<Checkpoint>) -> Result<(Config, Vec<BlockLayout>)> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let config = stored.config()?;
    let layouts = (0..config.layers.len()).map(|block| block_layout(&config, &stored, block));
    let layouts = layouts.collect::<Result<_>>()?;
    Ok((config, layouts))
}
