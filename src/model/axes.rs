//! Axes: the numberings of the rows and columns of weights. Tensors that share an axis are as wide as each other there, and
//! are cut together.

use super::arch::Arch;
use super::description::Model;
use super::mixer::{Attention, Mixer, attention::Projections};
use super::names::{Network, TensorRole};

/// The numbering of the rows or the columns of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// Columns of the residual stream.
    Hidden,
    /// Columns of all query heads.
    Queries,
    /// Columns of all key heads, or of all value heads.
    KeyValues,
    /// Columns of queries, keys and values, in the order of the fused linear that makes them.
    QueriesKeysValues,
    /// Channels of a feed-forward network.
    Channels(Network),
    /// All gates, then all channels.
    GatesAndChannels(Network),
    /// Experts.
    Experts,
    /// Tokens.
    Vocabulary,
    /// One row.
    One,
}

impl TensorRole {
    /// The axes of a weight of this role, [outputs, inputs]; of a norm, the one of its elements is the second. `None` where it
    /// has none, or where llmc does not know.
    pub(crate) fn axes(self) -> [Option<Axis>; 2] {
        use Axis::{
            Channels, Experts, GatesAndChannels, Hidden, KeyValues, One, Queries, QueriesKeysValues,
            Vocabulary,
        };
        let [outputs, inputs] = match self {
            TensorRole::Query => [Queries, Hidden],
            TensorRole::Key | TensorRole::Value => [KeyValues, Hidden],
            TensorRole::QueryKeyValue => [QueriesKeysValues, Hidden],
            TensorRole::AttentionOutput => [Hidden, Queries],
            TensorRole::Gate(network) | TensorRole::Up(network) => [Channels(network), Hidden],
            TensorRole::GateUp(network) => [GatesAndChannels(network), Hidden],
            TensorRole::Down(network) => [Hidden, Channels(network)],
            TensorRole::Router => [Experts, Hidden],
            TensorRole::SharedExpertGate => [One, Hidden],
            TensorRole::TokenEmbedding | TensorRole::Head => [Vocabulary, Hidden],
            TensorRole::PositionEmbedding | TensorRole::TypeEmbedding => return [None, Some(Hidden)],
            TensorRole::MixerNorm
            | TensorRole::MixerOutputNorm
            | TensorRole::FeedForwardNorm
            | TensorRole::FeedForwardOutputNorm
            | TensorRole::ResidualNorm
            | TensorRole::EmbeddingNorm
            | TensorRole::FinalNorm => return [None, Some(Hidden)],
            TensorRole::QueryNorm | TensorRole::KeyNorm | TensorRole::EmbeddingProjection => {
                return [None, None];
            }
        };
        [Some(outputs), Some(inputs)]
    }
}

impl Model {
    /// The axes of a weight of this role as a file of the model stores it.
    pub(crate) fn axes(&self, role: TensorRole) -> [Option<Axis>; 2] {
        let whole = self.attention().is_some_and(|it| it.norms.is_some_and(|norms| norms.whole));
        let [outputs, inputs] = match role {
            TensorRole::QueryNorm if whole => [None, Some(Axis::Queries)],
            TensorRole::KeyNorm if whole => [None, Some(Axis::KeyValues)],
            // Their columns are those of a narrower embedding.
            TensorRole::TokenEmbedding | TensorRole::Head if self.frame.embedding.projections.is_some() => {
                [Some(Axis::Vocabulary), None]
            }
            _ => role.axes(),
        };
        let is_linear = outputs.is_some() && !matches!(role, TensorRole::TokenEmbedding | TensorRole::Head);
        if self.frame.transposed && is_linear { [inputs, outputs] } else { [outputs, inputs] }
    }

    /// The attention of the first layer; the others have as many heads.
    pub(crate) fn attention(&self) -> Option<&Attention> {
        self.layers.first().map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention
        })
    }
}

impl Attention {
    /// The columns of these query or key/value heads.
    pub(crate) fn columns<'a>(
        &self,
        heads: impl IntoIterator<Item = u32> + 'a,
    ) -> impl Iterator<Item = u32> + 'a {
        let dim = self.head_dim as u32;
        heads.into_iter().flat_map(move |head| head * dim..(head + 1) * dim)
    }

    /// The query heads that read these key/value heads.
    pub(crate) fn readers<'a>(&self, kv_heads: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let per_group = (self.heads / self.kv_heads) as u32;
        kv_heads.iter().flat_map(move |head| head * per_group..(head + 1) * per_group)
    }

    /// The columns of these key/value heads, and of the query heads that read them, among those of an axis; `None` for an axis of
    /// something else.
    pub(crate) fn kept_columns(&self, axis: Axis, kv_heads: &[u32]) -> Option<Vec<u32>> {
        let queries = || self.columns(self.readers(kv_heads));
        let key_values = || self.columns(kv_heads.iter().copied());
        let (q, kv) = (self.q_width() as u32, self.kv_width() as u32);
        match (axis, self.input) {
            (Axis::Queries, _) => Some(queries().collect()),
            (Axis::KeyValues, _) => Some(key_values().collect()),
            (Axis::QueriesKeysValues, Projections::PerHead(_)) => {
                let parts = kv_heads.iter().flat_map(|head| 3 * head..3 * head + 3);
                Some(self.columns(parts).collect())
            }
            (Axis::QueriesKeysValues, _) => {
                let keys = key_values().map(|column| q + column);
                let values = key_values().map(|column| q + kv + column);
                Some(queries().chain(keys).chain(values).collect())
            }
            _ => None,
        }
    }
}

/// The name of a layer's tensor: `before`, the layer's number, `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerName<'a> {
    /// The name up to the number.
    pub before: &'a str,
    /// The layer.
    pub layer: usize,
    /// The rest of the name.
    pub after: &'a str,
}

impl Arch {
    /// Splits the name of a tensor of a layer, whether or not the architecture has such a tensor.
    pub(crate) fn layer_name<'a>(&self, full: &'a str) -> Option<LayerName<'a>> {
        let pattern = self.outline.layer.tensors().first()?.hf;
        let (prefix, _) = pattern.split_once("{b}")?;
        let bases = std::iter::once(&self.outline.frame.base).chain(super::weights::OTHER_BASES);
        bases.into_iter().find_map(|base| {
            let rest = full.strip_prefix(base)?.strip_prefix(prefix)?;
            let digits = rest.find('.')?;
            let layer = rest[..digits].parse().ok()?;
            let before = &full[..full.len() - rest.len()];
            Some(LayerName { before, layer, after: &rest[digits..] })
        })
    }
}
