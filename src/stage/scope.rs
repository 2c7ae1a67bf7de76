//! The units in which stages are carried out.

/// The part of a model that a stage is given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Rows of one linear. Rows are quantized as they are written: no block is needed.
    Rows,
    /// The linears of one depth, in the order of the forward pass: the inputs of later depths are computed with the results
    /// of earlier ones.
    Input,
    /// A whole decoder block.
    Block,
}
