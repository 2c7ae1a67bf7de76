//! The frame of a model: everything but its layers. How its tensors are stored, how tokens become the first hidden states,
//! and how the last ones become logits. Plain data.

use super::names::{TensorName, TensorRole};

/// Everything of a model but its layers. Names are without `.weight` and `.bias`; biases are used wherever the file has
/// them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Beginning of all names but the head's; files of bare models do without it.
    pub base: &'static str,
    /// True if linear weights are stored [in, out] (GPT-2).
    pub transposed: bool,
    /// The kind of its norms.
    pub norm: NormKind,
    /// The first hidden states.
    pub embedding: EmbeddingTables,
    /// Norm before the head.
    pub final_norm: Option<&'static str>,
    /// The head's name, where it has weights of its own; `None` for encoders.
    pub head: Option<&'static str>,
    /// True if the head is the embedding.
    pub tied: bool,
    /// Cap of logits (Gemma 2).
    pub logit_cap: Option<f32>,
}

/// The tables that make the first hidden states of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingTables {
    /// A row per token.
    pub tokens: &'static str,
    /// Projection of these rows to the width of the model, and back before the head (OPT-350m).
    pub projections: Option<[&'static str; 2]>,
    /// Factor of the rows (Gemma).
    pub scale: Option<f32>,
    /// A learned row per position.
    pub positions: Option<LearnedPositions>,
    /// A row per type of token; type 0 where none is given (BERT).
    pub types: Option<&'static str>,
    /// Norm of the sum.
    pub norm: Option<&'static str>,
}

/// A learned row per position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// The table's name.
    pub name: &'static str,
    /// Row of position 0.
    pub offset: usize,
}

/// The kind of a model's norms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormKind {
    /// True for LayerNorm, which subtracts the mean; false for RMSNorm.
    pub centered: bool,
    /// Is added to the variance.
    pub epsilon: f32,
    /// True if one is added to the stored weight (Gemma).
    pub plus_one: bool,
}

impl Frame {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let table = &self.embedding;
        let projections = table.projections.into_iter().flatten();
        let optional = [
            (TensorRole::PositionEmbedding, table.positions.map(|positions| positions.name)),
            (TensorRole::TypeEmbedding, table.types),
            (TensorRole::EmbeddingNorm, table.norm),
            (TensorRole::FinalNorm, self.final_norm),
            (TensorRole::Head, self.head),
        ];
        let optional = optional.into_iter().filter_map(|(role, name)| Some(TensorName::new(role, name?)));
        let mut tensors = vec![TensorName::new(TensorRole::TokenEmbedding, table.tokens)];
        tensors.extend(projections.map(|name| TensorName::new(TensorRole::EmbeddingProjection, name)));
        tensors.extend(optional);
        tensors
    }
}
