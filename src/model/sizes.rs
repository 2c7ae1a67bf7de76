//! The sizes of a model: what its config.json says, and what only its tensors tell.

use super::arch::Arch;
use super::description::Model;
use super::feed_forward::FeedForward;
use super::names::{Network, TensorRole};
use crate::tensor::rows_cols;

/// The sizes of a model that pruning may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Decoder blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// True if the width must be a multiple of the query heads.
    pub heads_divide_width: bool,
    /// Rows of the token embedding.
    pub vocabulary: usize,
    /// Channels of the plain feed-forward network of each block; `None` for a mixture of experts.
    pub channels: Vec<Option<usize>>,
    /// Channels of each expert of each block; `None` where it has no experts, or where they are not stored one by one.
    pub expert_channels: Vec<Option<usize>>,
    /// Experts of each block; `None` where it has no router.
    pub experts: Vec<Option<usize>>,
    /// Experts that each token is sent to; 0 without any.
    pub top_k: usize,
}

impl Sizes {
    /// Reads the sizes of a model from its description and the shapes of its tensors, by name.
    pub(crate) fn of<'a>(
        arch: &Arch,
        model: &Model,
        tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
    ) -> Sizes {
        let layers = model.layers.len();
        let [heads, kv_heads] = model.attention().map_or([0, 0], |it| [it.heads, it.kv_heads]);
        let top_k = match model.layers.first().map(|layer| layer.feed_forward) {
            Some(FeedForward::Experts(experts)) => experts.choice.map_or(0, |choice| choice.routing.top_k),
            _ => 0,
        };
        let mut sizes = Sizes {
            layers,
            hidden: model.hidden,
            heads,
            kv_heads,
            heads_divide_width: arch.outline.keys.heads_divide_width,
            top_k,
            channels: vec![None; layers],
            expert_channels: vec![None; layers],
            experts: vec![None; layers],
            vocabulary: 0,
        };
        for (name, shape) in tensors {
            let Some(known) = arch.loaded(name).filter(|known| known.suffix == "weight") else { continue };
            let transposed = usize::from(model.frame.transposed);
            sizes.add(known.role, known.numbers.block, rows_cols(shape), transposed);
        }
        sizes
    }

    fn add(&mut self, role: TensorRole, layer: Option<usize>, shape: [usize; 2], outputs: usize) {
        let layer = layer.filter(|layer| *layer < self.layers);
        match (role, layer) {
            (TensorRole::TokenEmbedding, _) => self.vocabulary = shape[0],
            (TensorRole::Up(Network::Dense), Some(layer)) => self.channels[layer] = Some(shape[outputs]),
            (TensorRole::GateUp(Network::Dense), Some(layer)) => {
                self.channels[layer] = Some(shape[outputs] / 2);
            }
            (TensorRole::Up(Network::Expert), Some(layer)) => {
                self.expert_channels[layer] = Some(shape[outputs]);
            }
            (TensorRole::Router, Some(layer)) => self.experts[layer] = Some(shape[0]),
            _ => {}
        }
    }
}
