//! Edits of rewriting stages at the two ends of the residual stream: of the rows of the embedding and of the head, as they
//! are read, and of the final norm.

use std::sync::Arc;

use ndarray::Array2;

use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{ModelEnds, Weights, model_ends};
use crate::pipeline::stream::{BlockResult, RowEdit};
use crate::plan::Request;
use crate::stage::{Ends, Rewrite, Stage};

/// Gives a checkpoint a head of its own if a recipe edits the embedding and the head differently.
///
/// # Errors
/// An architecture that llmc does not support.
pub(crate) fn untie(request: &Request, checkpoint: Checkpoint) -> Result<Checkpoint> {
    if stages_with_ends(request).is_empty() {
        return Ok(checkpoint);
    }
    let checkpoint = Arc::new(checkpoint);
    let (tied, ends) = find(&checkpoint)?;
    let mut checkpoint = Arc::into_inner(checkpoint).expect("what was looked up holds no part of it");
    if tied {
        checkpoint.untie(&ends.embedding, &ends.head);
    }
    Ok(checkpoint)
}

/// The stages with edits outside the blocks.
fn stages_with_ends(request: &Request) -> Vec<Arc<dyn Rewrite>> {
    let rewriting = request.stages.iter().filter_map(|stage| match stage {
        Stage::Rewrite(method) => Some(Arc::clone(method)),
        _ => None,
    });
    rewriting.filter(|method| method.ends().is_some()).collect()
}

/// The edits outside the blocks of a recipe's stages.
pub(crate) fn ends(request: &Request, checkpoint: &Arc<Checkpoint>) -> Result<BlockResult> {
    let mut result = BlockResult::default();
    let stages = stages_with_ends(request);
    if stages.is_empty() {
        return Ok(result);
    }
    let (_, places) = find(checkpoint)?;
    let less = if places.final_norm.plus_one { 1.0 } else { 0.0 };
    let stored = CheckpointWeights(Arc::clone(checkpoint)).vector(&places.final_norm.weight)?;
    let ones = Array2::from_elem((1, stored.len()), 1.0 - less);
    let norm: Vec<f32> = stored.iter().map(|weight| weight + less).collect();
    result.values.insert(places.final_norm.weight, ones);
    result.edits.insert(places.embedding, edit(stages.clone(), |ends, _, rows| ends.embedding(rows)));
    // The first stage multiplies the norm's weight into the head; for those after it, it is one.
    let head = move |ends: &dyn Ends, first: bool, rows: &mut Array2<f32>| match first {
        true => ends.head(rows, &norm),
        false => ends.head(rows, &vec![1.0; norm.len()]),
    };
    result.edits.insert(places.head, edit(stages, head));
    Ok(result)
}

/// One edit that applies all stages in order; `apply` gets true for the first stage.
fn edit(
    stages: Vec<Arc<dyn Rewrite>>,
    apply: impl Fn(&dyn Ends, bool, &mut Array2<f32>) -> Result<()> + Send + Sync + 'static,
) -> RowEdit {
    Arc::new(move |rows| {
        let ends = stages.iter().filter_map(|stage| stage.ends()).enumerate();
        ends.into_iter().try_for_each(|(index, ends)| apply(ends, index == 0, rows))
    })
}

/// Returns true if head and embedding are tied, and the tensors at the ends of the stream.
fn find(checkpoint: &Arc<Checkpoint>) -> Result<(bool, ModelEnds)> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let model = stored.model()?;
    let ends = model_ends(&model, &stored)?;
    let tied = model.frame.tied || !checkpoint.tensors.contains_key(&ends.head);
    Ok((tied, ends))
}
