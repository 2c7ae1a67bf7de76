//! What a decoder is, beyond its weights: [`Config`], which each architecture fills in from config.json, and the tensor
//! names that go with it. Plain data; `decoder` and `block` compute with it.

use crate::backend::{Activation, Routing};
use crate::error::{Error, Result};
use crate::model::rotary::Rotary;

/// A transformer as `decoder` runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the file calls its tensors.
    pub names: Names,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Positions that the model was made for.
    pub context: Option<usize>,
    /// Its norms.
    pub norm: NormKind,
    /// How it tells positions apart.
    pub positions: Positions,
    /// Multiplies embeddings (Gemma).
    pub embedding_scale: Option<f32>,
    /// Multiplies q·k.
    pub attention_scale: f32,
    /// Whether block b divides it by b + 1 (a setting of GPT-2).
    pub scale_by_block: bool,
    /// Limit of the elements of q, k and v (a setting of OLMoE).
    pub qkv_clip: Option<f32>,
    /// Cap of attention scores (Gemma 2).
    pub attention_cap: Option<f32>,
    /// What q and k are normalized over.
    pub qk_norm: QkNorm,
    /// Whether tokens see only what stands before them.
    pub causal: bool,
    /// The feed-forward's function.
    pub activation: Activation,
    /// Whether the feed-forward multiplies by a gate.
    pub gated: bool,
    /// Whether attention and feed-forward read the same input (GPT-NeoX).
    pub parallel: bool,
    /// Experts, in the layers that have a router.
    pub experts: Option<Experts>,
    /// Cap of logits (Gemma 2).
    pub logit_cap: Option<f32>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Each decoder block.
    pub layers: Vec<Layer>,
}

/// What differs between the blocks of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layer {
    /// How many positions back attention sees, its own included.
    pub window: Option<usize>,
    /// Which of the model's rotations it uses.
    pub rotary: usize,
}

/// The norms of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormKind {
    /// LayerNorm, not RMSNorm.
    pub centered: bool,
    /// Is added to the variance.
    pub epsilon: f32,
    /// Whether one is added to the stored weight (Gemma).
    pub plus_one: bool,
}

/// How a model tells positions apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotations of queries and keys; several where kinds of layers differ (Gemma 3).
    Rotary(Vec<Rotary>),
    /// A learned row per position, from `offset` on.
    Learned {
        /// Row of position 0.
        offset: usize,
    },
    /// A slope per head (Press et al., 2021, <https://arxiv.org/abs/2108.12409>).
    Alibi,
}

/// What the norms of queries and keys run over, where there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself.
    Head,
    /// All heads at once (OLMo 2).
    Whole,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many.
    pub count: usize,
    /// How they are chosen.
    pub routing: Routing,
}

/// What a file calls its tensors, without `.weight` and `.bias`. `{b}` is the block's number, `{e}` the expert's or head's.
/// Biases are used wherever the file has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// What all names but the head's begin with; files of bare models go without.
    pub base: &'static str,
    /// Token embedding.
    pub embedding: &'static str,
    /// Learned positions.
    pub positions: Option<&'static str>,
    /// Token types, of which the first row is added to every token (BERT).
    pub token_types: Option<&'static str>,
    /// Norm of the embeddings.
    pub embedding_norm: Option<&'static str>,
    /// Projection of embeddings to the width of the model, and back (OPT-350m).
    pub projections: Option<[&'static str; 2]>,
    /// Attention.
    pub attention: Sublayer,
    /// How the rows of a fused q/k/v are ordered.
    pub qkv: QkvOrder,
    /// Norms of q and k; used where the file has them.
    pub qk_norms: Option<[&'static str; 2]>,
    /// Feed-forward.
    pub feed_forward: Sublayer,
    /// Its experts.
    pub experts: Option<ExpertNames>,
    /// Whether linear weights are stored [in, out] (GPT-2).
    pub transposed: bool,
    /// Norm before the head.
    pub final_norm: Option<&'static str>,
    /// The head, where it is not tied; `None` for encoders.
    pub head: Option<&'static str>,
}

/// Attention or feed-forward: x = after(x + output_norm(f(norm(x)))), each norm where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sublayer {
    /// Norm of what goes in.
    pub norm: Option<&'static str>,
    /// Linears that read it: q, k, v or all in one; gate and up, or all in one, or up alone.
    pub input: &'static [&'static str],
    /// The linear that writes to the residual stream.
    pub output: &'static str,
    /// Norm of what comes out.
    pub output_norm: Option<&'static str>,
    /// Norm of the residual stream afterwards (BERT).
    pub after: Option<&'static str>,
}

/// Order of rows of a fused q/k/v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// All of q, all of k, all of v.
    Stacked,
    /// q, k and v of the first head, of the second, and so on (GPT-NeoX, BLOOM).
    PerHead,
}

/// Tensors of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// The router.
    pub router: &'static str,
    /// Gate and up of expert `{e}`.
    pub input: [&'static str; 2],
    /// Its down.
    pub output: &'static str,
    /// The expert that every token goes through.
    pub shared: Option<SharedNames>,
}

/// Tensors of a shared expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedNames {
    /// Gate and up.
    pub input: [&'static str; 2],
    /// Down.
    pub output: &'static str,
    /// Its weight for a token, through a sigmoid.
    pub gate: &'static str,
}

impl Sublayer {
    /// With the norm on the residual stream afterwards instead of on the input.
    pub fn norm_after(self) -> Sublayer {
        Sublayer { norm: None, after: self.norm, ..self }
    }
}

impl Config {
    /// Refuses numbers that do not belong together.
    pub fn validate(&self) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads.max(1)) || self.kv_heads == 0 || self.head_dim == 0 {
            let found = format!("{} heads over {}", self.heads, self.kv_heads);
            let expected = "query heads that are a multiple of the key/value heads, of a positive size";
            let hint =
                "config.json is damaged or of another model: copy the one that belongs to these weights";
            return Err(Error::malformed_tensor("config.json", "num_key_value_heads", expected, found, hint));
        }
        Ok(())
    }

    /// Columns of q.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of k, and of v.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// ALiBi's slopes, \[heads\]; `None` where positions are told otherwise.
    ///
    /// Source: `get_slopes` of the paper's code: 2^(−8i/n) for a power of two n; of other counts, those of the power of two
    /// below, then every other of the one above.
    pub fn slopes(&self) -> Option<Vec<f32>> {
        if self.positions != Positions::Alibi {
            return None;
        }
        let below = 1 << self.heads.max(1).ilog2();
        let slope = |i: usize, n: usize| 2f64.powf(-8.0 * i as f64 / n as f64) as f32;
        let first = (1..=below).map(|i| slope(i, below));
        let rest = (0..self.heads - below).map(|i| slope(2 * i + 1, 2 * below));
        Some(first.chain(rest).collect())
    }
}
