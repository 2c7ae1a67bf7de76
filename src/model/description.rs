//! The description of a model, beyond its weights: [`Model`]. Everything else follows from it: the tensors that are loaded,
//! the forward pass, the layout of each block.
//!
//! It begins as the [`Outline`] of its architecture, which has all names and the defaults of the settings; config.json
//! fills in the settings.

use super::feed_forward::FeedForward;
use super::frame::{Frame, NormKind};
use super::layer::Layer;
use super::layout::{BlockLayout, Walk};
use super::mixer::{Attention, Mixer};
use super::names::TensorName;
use super::rope::Rope;
use super::rotary::Rotary;
use super::settings::{SettingKeys, Settings};
use super::weights::{Loader, Weights};
use crate::backend::{Backend, Rotations, Span};
use crate::error::{Error, Result};

/// A transformer, as `decoder` runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Everything but its layers.
    pub frame: Frame,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions that the model was made for.
    pub context: Option<usize>,
    /// Rotations of queries and keys; several where kinds of layers differ (Gemma 3).
    pub rotaries: Vec<Rotary>,
    /// The decoder blocks.
    pub layers: Vec<Layer>,
}

/// The common part of all models of an architecture: names, and defaults for settings that config.json leaves out (those of
/// transformers' configuration class).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outline {
    /// Everything but the layers.
    pub frame: Frame,
    /// A layer.
    pub layer: Layer,
    /// Rotations of queries and keys; `None` where positions are told otherwise.
    pub rotation: Option<RotationDefaults>,
    /// The keys of the settings.
    pub keys: SettingKeys,
}

/// Defaults of rotations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotationDefaults {
    /// Base of the frequencies.
    pub theta: f64,
    /// Part of each head that is rotated.
    pub partial: f64,
}

impl Outline {
    /// Lists the tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let mut tensors = self.frame.tensors();
        tensors.extend(self.layer.tensors());
        tensors
    }

    /// Fills in the settings of config.json, alike for all layers.
    pub(super) fn read(&self, settings: &Settings) -> Result<Model> {
        let keys = &self.keys;
        let hidden = settings.size(keys.hidden)?;
        let layer = Layer {
            mixer: self.layer.mixer.read(settings, keys, hidden)?,
            feed_forward: self.layer.feed_forward.read(settings, keys)?,
            ..self.layer
        };
        let context = settings.optional(keys.context)?;
        Rope::check(settings)?;
        let rotary = |defaults: RotationDefaults| {
            let Mixer::Attention(attention) = &layer.mixer;
            let mut rope = Rope::read(settings.0, defaults.theta);
            rope.partial.get_or_insert(defaults.partial);
            Rotary::new(&rope, attention.head_dim, context)
        };
        let rotaries = self.rotation.map(rotary).transpose()?.into_iter().collect();
        let norm = NormKind {
            epsilon: settings
                .not_negative(keys.epsilon)?
                .map_or(self.frame.norm.epsilon, |epsilon| epsilon as f32),
            ..self.frame.norm
        };
        let tied = settings.flag("tie_word_embeddings", self.frame.tied)?;
        let frame = Frame { norm, tied, ..self.frame };
        settings.sliding()?;
        Ok(Model { frame, hidden, context, rotaries, layers: vec![layer; settings.blocks()?] })
    }
}

impl Model {
    /// Returns the attention of each layer.
    pub(super) fn attentions(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.layers.iter_mut().map(|layer| {
            let Mixer::Attention(attention) = &mut layer.mixer;
            attention
        })
    }

    /// Gives sliding layers their window: those that `layer_types` names, or, where config.json has no such list, those that
    /// `slides` does.
    pub(super) fn slide(
        &mut self,
        settings: &Settings,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let types = settings.sliding()?;
        for (index, attention) in self.attentions().enumerate() {
            let is_sliding = types.get(index).copied().unwrap_or_else(|| slides(index));
            attention.window = window.filter(|_| is_sliding);
        }
        Ok(())
    }

    /// Refuses numbers that do not belong together.
    pub(super) fn validate(&self) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.mixer.validate())
    }

    pub(super) fn loader<'a, B: Backend>(
        &'a self,
        backend: &'a B,
        weights: &'a dyn Weights,
    ) -> Loader<'a, B> {
        Loader::new(backend, weights, &self.frame, self.hidden)
    }

    /// Returns true if it has experts.
    pub(crate) fn has_experts(&self) -> bool {
        let choice = |layer: &Layer| match layer.feed_forward {
            FeedForward::Experts(experts) => experts.choice,
            FeedForward::Dense(_) | FeedForward::Gated(_) => None,
        };
        self.layers.iter().any(|layer| choice(layer).is_some())
    }

    /// Returns the rotations of a batch, one per kind of layer.
    pub(crate) fn rotations(&self, spans: &[Span]) -> Vec<Rotations> {
        self.rotaries.iter().map(|rotary| rotary.rotations(spans)).collect()
    }

    /// Returns the values that all layers carry from token to token, for each token.
    pub(crate) fn state_values(&self) -> usize {
        self.layers.iter().map(|layer| layer.mixer.state_values()).sum()
    }
}

/// Returns the layout of a block for methods that work on its weights as they are stored. The file must have the weights that the
/// architecture asks for.
///
/// # Errors
/// Weights that are missing or do not fit each other; [`Error::Unsupported`] for linears that are stored the other way
/// round.
pub fn block_layout(model: &Model, weights: &dyn Weights, block: usize) -> Result<BlockLayout> {
    if model.frame.transposed {
        return Err(Error::unsupported(
            "the linears of this architecture are stored [in, out], which no scheme can group by inputs",
            "convert the model to one whose linears are stored [out, in], or leave it as it is",
        ));
    }
    stored_layout(model, weights, block)
}

/// Returns the layout of a block, whose linears may be stored the other way round.
///
/// # Errors
/// Weights that are missing or do not fit each other.
pub(crate) fn stored_layout(model: &Model, weights: &dyn Weights, block: usize) -> Result<BlockLayout> {
    let mut walk = Walk::new(weights, &model.frame, model.hidden, block);
    model.layers[block].walk(&mut walk)?;
    Ok(walk.finish())
}
