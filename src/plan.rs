//! `Recipe` × `Checkpoint` → `Plan`: every tensor, what becomes of it and why, before any work.

use serde::Serialize;

use crate::export::{Output, Part};
use crate::numerics::Scheme;
use crate::recipe::Recipe;
use crate::tensor::DType;

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Action {
    /// Quantized to the scheme.
    Quantize(Scheme),
    /// Stored dense in this type: passed through bit for bit where it already is.
    Store(DType),
}

/// One tensor of the output.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which, and where its rows come from.
    pub output: Output,
    /// What becomes of it.
    pub action: Action,
    /// What was decided differently from what was asked, or why it is left alone.
    pub note: Option<String>,
    /// Whether the note says that something was substituted (an error under `--strict`).
    pub substituted: bool,
    /// The stored tensors.
    pub parts: Vec<Part>,
    /// Steps that share their extent with this one (q/k/v, gate/up): the same number; `None` alone.
    pub fused: Option<usize>,
}

/// Everything that will be done, resolved and printable.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What was asked.
    pub recipe: Recipe,
    /// Every tensor of the output, in the order of the input.
    pub steps: Vec<Step>,
    /// The model's float type: that of most of its weights.
    pub dtype: DType,
    /// String metadata for the files' headers: format, version, recipe, blake3 of the inputs.
    pub metadata: Vec<(String, String)>,
}
