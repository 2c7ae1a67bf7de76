//! The operations that models are written in, and their arguments.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::numerics::Weight;
use crate::tensor::DType;

/// A stored matrix [rows, cols] that a backend loads: read by ranges of rows, so that no more than a range is ever held
/// beside the packed copy.
pub trait Matrix: Send + Sync {
    /// The tensor's name in the file.
    fn name(&self) -> &str;
    /// [rows, cols].
    fn shape(&self) -> [usize; 2];
    /// The number of its first row in the tensor, for a part of one.
    fn first_row(&self) -> usize {
        0
    }
    /// The element type that holds its values exactly: that of the file for dense weights, f32 for others.
    fn dtype(&self) -> DType;
    /// Reads rows: values where they are stored dense, codes where they are quantized (GGUF blocks too).
    fn read(&self, rows: Range<usize>) -> Result<Weight>;
    /// Gives the pages of the file back to the system.
    fn release(&self);
}

/// Root-mean-square or mean-and-variance normalization of each run of `width` columns: the whole row, or each head.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Columns that are normalized together.
    pub width: usize,
    /// Multiplies the normalized values; a whole number of widths, repeated along the row: one for all heads, or one each.
    pub weight: Vec<f32>,
    /// Is added to them; as long as `weight`.
    pub bias: Option<Vec<f32>>,
    /// Is added to the variance.
    pub epsilon: f32,
    /// True if the mean is subtracted (LayerNorm); false for RMSNorm.
    pub centered: bool,
}

/// Element-wise functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// x·Φ(x), by the error function.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// σ(x).
    Sigmoid,
    /// x, kept within this distance of zero.
    Clip(f32),
}

/// Consecutive rows of a batch that continue one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The sequence: which keys and values of the cache are its own.
    pub slot: usize,
    /// Tokens of it that come before: the position of the first row. What the cache holds beyond is forgotten.
    pub past: usize,
    /// Rows of it in this batch.
    pub len: usize,
}

/// Cosines and sines of the rotations of a batch, [rows, rotated/2] each, attention factor included.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rotations {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
    /// Columns of either: half of what is rotated of a head.
    pub half: usize,
    /// Size of a head; its columns beyond 2·half stay as they are.
    pub head_dim: usize,
}

/// The settings of attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves heads/kv_heads query heads in a row.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// c·tanh(score/c) (Gemma 2).
    pub soft_cap: Option<f32>,
    /// Positions back that a query sees, its own included.
    pub window: Option<usize>,
    /// ALiBi's slope of each head: slope·(key position − query position) is added to the score.
    pub slopes: Option<Vec<f32>>,
    /// True if a query sees only what stands before it; encoders see all of their sequence.
    pub causal: bool,
}

/// The rule by which a router's logits choose experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// True if the chosen probabilities are divided by their sum.
    pub renormalize: bool,
}

/// The tokens that one expert gets.
#[derive(Debug, Clone)]
pub struct Route<T> {
    /// The number of the expert.
    pub expert: usize,
    /// Rows of the batch, ascending.
    pub rows: Vec<u32>,
    /// The factor of each row's output, [rows.len(), 1].
    pub weights: T,
}

/// The operations of a decoder. Tensors are matrices [rows, cols] of activations.
///
/// An argument taken by value may be overwritten. Shapes are the decoder's to get right: a backend may panic on others.
pub trait Backend: Send + Sync {
    /// Activations, [rows, cols].
    type Tensor: Send;
    /// The weight and bias of a linear layer, as this backend multiplies with it.
    type Linear: Send + Sync;
    /// A table of rows looked up by number.
    type Table: Send + Sync;
    /// [`NormWeights`], as this backend uses them.
    type Norm: Send + Sync;
    /// The keys and values of one layer, for every slot.
    type KeyValues: Send;

    /// Loads `parts` stacked by rows as one layer (q, k and v; gate and up): y = x·[p₀; p₁; …]ᵀ + bias.
    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Self::Linear>;
    /// Loads a table.
    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<Self::Table>;
    /// The output head that shares a table's weights.
    fn tied_head(&self, table: &Self::Table) -> Result<Self::Linear>;
    /// Loads a norm.
    fn load_norm(&self, norm: NormWeights) -> Result<Self::Norm>;
    /// An empty cache of one layer for keys and values of `width` columns, with so many slots.
    fn key_values(&self, width: usize, slots: usize) -> Result<Self::KeyValues>;
    /// Makes slot `to` a copy of the first `len` positions of slot `from`.
    fn copy_slot(&self, cache: &mut Self::KeyValues, from: usize, to: usize, len: usize) -> Result<()>;

    /// Rows of a tensor.
    fn rows(&self, x: &Self::Tensor) -> usize;
    /// Rows of a table: [ids.len(), cols].
    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor>;
    /// x·Wᵀ + b: [rows, in] → [rows, out].
    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor>;
    /// Normalizes each run of the norm's width.
    fn norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor>;
    /// Cuts columns into `N` parts of these widths.
    fn split<const N: usize>(&self, x: &Self::Tensor, widths: [usize; N]) -> Result<[Self::Tensor; N]>;
    /// Rotates the pairs (i, i + half) of every head.
    fn rope(&self, x: Self::Tensor, rotations: &Rotations) -> Result<Self::Tensor>;
    /// softmax(scale·q·kᵀ + mask)·v for each span and head. With a cache, k and v are written to the spans' slots at
    /// position `past`, and queries see all that the slot then holds; without, `past` is 0 and they see their own span.
    ///
    /// q: [rows, heads·head_dim]; k, v: [rows, kv_heads·head_dim]; result: as q.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut Self::KeyValues>,
    ) -> Result<Self::Tensor>;
    /// Applies a function to every element.
    fn activate(&self, x: Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    /// activation(left half)·right half: [rows, 2n] → [rows, n].
    fn gate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    /// x + y.
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor>;
    /// factor·x.
    fn scale(&self, x: Self::Tensor, factor: f32) -> Result<Self::Tensor>;
    /// cap·tanh(x/cap).
    fn soft_cap(&self, x: Self::Tensor, cap: f32) -> Result<Self::Tensor>;
    /// Some rows of x, in this order.
    fn gather(&self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor>;
    /// Adds weights\[i\]·y\[i\] to row rows\[i\] of x.
    fn scatter_add(
        &self,
        x: Self::Tensor,
        rows: &[u32],
        y: &Self::Tensor,
        weights: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Chooses experts by the softmax of a router's logits [rows, experts]; experts that get no token are left out.
    fn route(&self, logits: &Self::Tensor, routing: Routing) -> Result<Vec<Route<Self::Tensor>>>;
    /// Zeros, [rows, cols].
    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// A tensor of these values, row-major [rows, cols].
    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Self::Tensor>;
    /// Shows the values to the host, row-major in f32.
    fn read<R>(&self, x: &Self::Tensor, look: impl FnOnce(&[f32]) -> R) -> Result<R>;
}
