//! The ends of a model: the tensors outside its blocks that the residual stream passes.

use super::description::Model;
use super::layout::{NormPlace, norm_place};
use super::weights::{Location, Tensors, Weights};
use crate::error::{Error, Result};

/// The tensors where the residual stream begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelEnds {
    /// Full name of the token embedding.
    pub embedding: String,
    /// The norm before the head.
    pub final_norm: NormPlace,
    /// Full name of the head's weight, whether the file has it or shares the embedding's.
    pub head: String,
}

/// Returns the ends of a model, of whose residual stream they are all that is outside the blocks.
///
/// # Errors
/// [`Error::Unsupported`] where positions, norms or projections stand between the embedding and the first block, or where
/// there is no plain final norm and head.
pub(crate) fn model_ends(model: &Model, weights: &dyn Weights) -> Result<ModelEnds> {
    let frame = &model.frame;
    let table = &frame.embedding;
    let between = table.positions.map(|positions| positions.name).or(table.types).or(table.norm);
    let between = between.or(table.projections.map(|projections| projections[0]));
    let (Some(norm), Some(head), None) = (frame.final_norm, frame.head, between) else {
        let what = between.unwrap_or("an encoder without a head");
        return Err(Error::unsupported(
            format!("the residual stream of this model cannot be turned: {what} stands at its end"),
            "leave `rotate` out of the recipe",
        ));
    };
    let tensors = Tensors::new(weights, frame);
    let final_norm = norm_place(&tensors, &tensors.name(norm, Location::default()), frame);
    let embedding = tensors.weight(&tensors.name(table.tokens, Location::default()));
    Ok(ModelEnds { embedding, final_norm, head: format!("{head}.weight") })
}
