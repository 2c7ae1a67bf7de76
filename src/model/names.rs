//! Tensor names: the roles that tensors have in a model, with the name that GGUF gives each role, and the patterns that
//! Hugging Face names follow.
//!
//! Patterns are dotted segments without the last one (`weight`, `bias`), which both sides share. The segment `{b}` is a
//! decoder block's number; `{e}`, on the Hugging Face side only, is the number of a part (an expert, a head's norm) of
//! a tensor that GGUF stacks along a new first dimension.

/// The role of a tensor in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorRole {
    /// Token embedding.
    TokenEmbedding,
    /// Learned positions.
    PositionEmbedding,
    /// Token types (BERT).
    TypeEmbedding,
    /// Norm of the embeddings.
    EmbeddingNorm,
    /// Projection of embeddings to the width of the model, or back.
    EmbeddingProjection,
    /// Norm of a mixer's input.
    MixerNorm,
    /// Norm of a mixer's output.
    MixerOutputNorm,
    /// Projection to queries.
    Query,
    /// Projection to keys.
    Key,
    /// Projection to values.
    Value,
    /// Projection to queries, keys and values at once.
    QueryKeyValue,
    /// Norm of queries.
    QueryNorm,
    /// Norm of keys.
    KeyNorm,
    /// Output projection of attention.
    AttentionOutput,
    /// Norm of a feed-forward network's input.
    FeedForwardNorm,
    /// Norm of a feed-forward network's output.
    FeedForwardOutputNorm,
    /// Norm of the residual stream after a sub-layer (BERT).
    ResidualNorm,
    /// Gate projection.
    Gate(Network),
    /// Up projection.
    Up(Network),
    /// Gate and up projection at once.
    GateUp(Network),
    /// Down projection.
    Down(Network),
    /// Router of a mixture of experts.
    Router,
    /// Linear that weighs the shared expert.
    SharedExpertGate,
    /// Norm before the head.
    FinalNorm,
    /// Output head.
    Head,
}

/// The kind of network that a feed-forward projection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The only one of its block.
    Dense,
    /// One of several experts.
    Expert,
    /// The expert that all tokens go through.
    Shared,
}

impl TensorRole {
    /// Returns GGUF's pattern for the role; `None` where no architecture with a GGUF form has it. Source:
    /// <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py>.
    pub(crate) fn gguf(self) -> Option<&'static str> {
        Some(match self {
            TensorRole::TokenEmbedding => "token_embd",
            TensorRole::MixerNorm => "blk.{b}.attn_norm",
            TensorRole::MixerOutputNorm => "blk.{b}.post_attention_norm",
            TensorRole::Query => "blk.{b}.attn_q",
            TensorRole::Key => "blk.{b}.attn_k",
            TensorRole::Value => "blk.{b}.attn_v",
            TensorRole::QueryKeyValue => "blk.{b}.attn_qkv",
            TensorRole::QueryNorm => "blk.{b}.attn_q_norm",
            TensorRole::KeyNorm => "blk.{b}.attn_k_norm",
            TensorRole::AttentionOutput => "blk.{b}.attn_output",
            TensorRole::FeedForwardNorm => "blk.{b}.ffn_norm",
            TensorRole::FeedForwardOutputNorm => "blk.{b}.post_ffw_norm",
            TensorRole::Gate(Network::Dense) => "blk.{b}.ffn_gate",
            TensorRole::Gate(Network::Expert) => "blk.{b}.ffn_gate_exps",
            TensorRole::Gate(Network::Shared) => "blk.{b}.ffn_gate_shexp",
            // llama.cpp cuts a wide ffn_up into gate and up.
            TensorRole::Up(Network::Dense) | TensorRole::GateUp(Network::Dense) => "blk.{b}.ffn_up",
            TensorRole::Up(Network::Expert) => "blk.{b}.ffn_up_exps",
            TensorRole::Up(Network::Shared) => "blk.{b}.ffn_up_shexp",
            TensorRole::Down(Network::Dense) => "blk.{b}.ffn_down",
            TensorRole::Down(Network::Expert) => "blk.{b}.ffn_down_exps",
            TensorRole::Down(Network::Shared) => "blk.{b}.ffn_down_shexp",
            TensorRole::Router => "blk.{b}.ffn_gate_inp",
            TensorRole::SharedExpertGate => "blk.{b}.ffn_gate_inp_shexp",
            TensorRole::FinalNorm => "output_norm",
            TensorRole::Head => "output",
            TensorRole::PositionEmbedding
            | TensorRole::TypeEmbedding
            | TensorRole::EmbeddingNorm
            | TensorRole::EmbeddingProjection
            | TensorRole::ResidualNorm
            | TensorRole::GateUp(Network::Expert | Network::Shared) => return None,
        })
    }

    /// Returns true for norms.
    pub(crate) fn is_norm(self) -> bool {
        use TensorRole::{
            EmbeddingNorm, FeedForwardNorm, FeedForwardOutputNorm, FinalNorm, KeyNorm, MixerNorm,
            MixerOutputNorm, QueryNorm, ResidualNorm,
        };
        let block = matches!(self, MixerNorm | MixerOutputNorm | FeedForwardNorm | FeedForwardOutputNorm);
        block || matches!(self, QueryNorm | KeyNorm | ResidualNorm | EmbeddingNorm | FinalNorm)
    }
}

/// A tensor of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TensorName {
    /// Its role.
    pub role: TensorRole,
    /// The pattern of its Hugging Face name, without the architecture's prefix: `layers.{b}.self_attn.q_proj`.
    pub hf: &'static str,
}

impl TensorName {
    /// Makes a tensor of this role and name.
    pub(crate) fn new(role: TensorRole, hf: &'static str) -> TensorName {
        TensorName { role, hf }
    }

    /// Returns true if GGUF stacks several Hugging Face tensors of this name into one.
    pub(crate) fn is_stacked(&self) -> bool {
        self.hf.split('.').any(|segment| segment == "{e}")
    }
}

/// The numbers in a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The decoder block.
    pub block: Option<usize>,
    /// The part of a stacked tensor.
    pub part: Option<usize>,
}

/// Matches a full name (`….weight`) against a pattern. Returns its numbers and its last segment.
pub(crate) fn matches<'a>(pattern: &str, full: &'a str) -> Option<(Numbers, &'a str)> {
    let (stem, suffix) = full.rsplit_once('.')?;
    let mut numbers = Numbers::default();
    let mut segments = stem.split('.');
    for expected in pattern.split('.') {
        let segment = segments.next()?;
        match expected {
            "{b}" => numbers.block = Some(number(segment)?),
            "{e}" => numbers.part = Some(number(segment)?),
            _ if expected == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some((numbers, suffix))
}

/// Returns the name that a pattern gives for these numbers.
pub(crate) fn fill(pattern: &str, numbers: Numbers, suffix: &str) -> String {
    let text = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
    let stem = pattern.replace("{b}", &text(numbers.block)).replace("{e}", &text(numbers.part));
    format!("{stem}.{suffix}")
}

/// Parses decimal digits without leading zeros, so that no two names mean the same tensor.
fn number(segment: &str) -> Option<usize> {
    let canonical = segment.len() == 1 || !segment.starts_with('0');
    let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| segment.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, full: &str, expected: Option<(Option<usize>, Option<usize>, &str)>) {
        let found = matches(pattern, full).map(|(n, suffix)| (n.block, n.part, suffix));
        assert_eq!(found, expected, "{pattern} on {full}");
    }

    #[test]
    fn patterns_match_whole_names() {
        check("output_norm", "output_norm.weight", Some((None, None, "weight")));
        check("blk.{b}.attn_q", "blk.12.attn_q.bias", Some((Some(12), None, "bias")));
        check("l.{b}.experts.{e}.w1", "l.3.experts.7.w1.weight", Some((Some(3), Some(7), "weight")));
        check("blk.{b}.attn_q", "blk.012.attn_q.weight", None);
        check("blk.{b}.attn_q", "blk.+1.attn_q.weight", None);
        check("blk.{b}.attn_q", "blk..attn_q.weight", None);
        check("blk.{b}.attn_q", "blk.1.attn_q", None);
        check("blk.{b}.attn_q", "blk.1.attn_q.more.weight", None);
        check("blk.{b}.attn_q", "blk.99999999999999999999999.attn_q.weight", None);
    }

    #[test]
    fn filling_inverts_matching() {
        let pattern = "model.layers.{b}.mlp.experts.{e}.up_proj";
        let full = "model.layers.4.mlp.experts.63.up_proj.weight";
        let (numbers, suffix) = matches(pattern, full).expect("the pattern matches");
        assert_eq!(fill(pattern, numbers, suffix), full);
    }
}
