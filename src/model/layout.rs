//! What a block is made of, by name: its linears in the order of the forward pass, which of them read the same input, its
//! norms, and where a scale may be moved from one weight to another without changing what the block computes.

/// A linear of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlace {
    /// Full name of its weight, `.weight` included.
    pub name: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// Step of the forward pass: linears of one step depend on those of earlier steps only (q, k and v; o; gate, up and
    /// the router; down).
    pub step: usize,
    /// Linears with the same number read the same input.
    pub input: usize,
    /// Which expert it belongs to.
    pub expert: Option<usize>,
    /// Whether its output is added to the residual stream.
    pub writes_residual: bool,
}

/// A norm whose outputs linears of the block read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NormPlace {
    /// Full name of its weight.
    pub weight: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// Whether it subtracts the mean (LayerNorm).
    pub centered: bool,
    /// Whether the file holds the weight less one (Gemma).
    pub plus_one: bool,
}

/// What makes the input of a [`Fold`]'s linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeder {
    /// Elements of the weight (and bias) of a norm of the block.
    Norm(usize),
    /// Rows of a linear of the block.
    Linear(usize),
}

/// Where a scale can be moved: column j of every reader may be multiplied by s where element `columns[j]` of the feeder is
/// divided by it. The readers are all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// What makes the inputs.
    pub feeder: Feeder,
    /// The linears that read them: indices into the block's.
    pub readers: Vec<usize>,
    /// The feeder's element (row) that makes each column; several columns may share one (grouped-query attention).
    pub columns: Vec<u32>,
    /// Columns of an attention head, where the feeder is v and the reader o.
    pub head_dim: Option<usize>,
}

/// A block's parts; [`Fold`]s index them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockLayout {
    /// In the order of the forward pass.
    pub linears: Vec<LinearPlace>,
    /// Norms that linears read.
    pub norms: Vec<NormPlace>,
    /// Where scales can be moved.
    pub folds: Vec<Fold>,
}
