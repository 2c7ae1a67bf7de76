//! One decoder block: attention and a feed-forward on the residual stream.

use super::config::{Config, Positions, Sublayer};
use super::experts::FeedForward;
use super::weights::{Loader, Place, Weights};
use crate::backend::{Activation, Attention, Backend, Rotations, Span};
use crate::error::Result;

/// A block, loaded. Blocks can be loaded and run one at a time.
pub struct Block<B: Backend> {
    attention_norms: Norms<B>,
    qkv: B::Linear,
    qk_norms: Option<[B::Norm; 2]>,
    output: B::Linear,
    feed_forward_norms: Norms<B>,
    feed_forward: FeedForward<B>,
    spec: Attention,
    /// Which of the model's rotations it uses; `None` where positions are told otherwise.
    rotary: Option<usize>,
    qkv_clip: Option<f32>,
    parallel: bool,
}

/// The norms around a sub-layer, where there are any.
struct Norms<B: Backend> {
    before: Option<B::Norm>,
    output: Option<B::Norm>,
    after: Option<B::Norm>,
}

impl<B: Backend> Norms<B> {
    fn load(loader: &Loader<B>, names: &Sublayer, place: Place) -> Result<Self> {
        let norm = |name: Option<&str>| name.map(|name| loader.norm(name, place)).transpose();
        Ok(Norms { before: norm(names.norm)?, output: norm(names.output_norm)?, after: norm(names.after)? })
    }
}

/// Applies a norm that a model may do without.
pub(super) fn normed<B: Backend>(backend: &B, x: B::Tensor, norm: Option<&B::Norm>) -> Result<B::Tensor> {
    norm.map_or(Ok(None), |norm| backend.norm(&x, norm).map(Some)).map(|normed| normed.unwrap_or(x))
}

impl<B: Backend> Block<B> {
    /// Loads one block alone.
    pub fn load(backend: &B, config: &Config, weights: &dyn Weights, index: usize) -> Result<Self> {
        Self::load_with(&Loader::new(backend, weights, config), index)
    }

    pub(super) fn load_with(loader: &Loader<B>, index: usize) -> Result<Self> {
        let (config, place) = (loader.config, Place { block: index, part: 0 });
        let names = &config.names;
        let head_norms = names.qk_norms.map(|[q, k]| {
            let (q, k) =
                (loader.head_norm(q, config.heads, place)?, loader.head_norm(k, config.kv_heads, place)?);
            Ok([q, k])
        });
        Ok(Block {
            attention_norms: Norms::load(loader, &names.attention, place)?,
            qkv: loader.qkv(place)?,
            qk_norms: head_norms.transpose()?,
            output: loader.linear(&[(names.attention.output, config.hidden)], config.q_width(), place)?,
            feed_forward_norms: Norms::load(loader, &names.feed_forward, place)?,
            feed_forward: FeedForward::load(loader, place)?,
            spec: spec(config, index),
            rotary: matches!(config.positions, Positions::Rotary(_)).then_some(config.layers[index].rotary),
            qkv_clip: config.qkv_clip,
            parallel: config.parallel,
        })
    }

    /// [rows, hidden] → [rows, hidden]. `rotations` are those of the batch, one per kind of layer.
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        rotations: &[Rotations],
        spans: &[Span],
        cache: Option<&mut B::KeyValues>,
    ) -> Result<B::Tensor> {
        let norms = &self.attention_norms;
        let before = norms.before.as_ref().map(|norm| backend.norm(&x, norm)).transpose()?;
        let attended = self.attend(backend, before.as_ref().unwrap_or(&x), rotations, spans, cache)?;
        if self.parallel {
            let own =
                self.feed_forward_norms.before.as_ref().map(|norm| backend.norm(&x, norm)).transpose()?;
            let input = own.as_ref().or(before.as_ref()).unwrap_or(&x);
            let fed = self.feed_forward.forward(backend, input)?;
            return backend.add(backend.add(x, &attended)?, &fed);
        }
        let x = join(backend, x, attended, norms)?;
        let norms = &self.feed_forward_norms;
        let before = norms.before.as_ref().map(|norm| backend.norm(&x, norm)).transpose()?;
        let fed = self.feed_forward.forward(backend, before.as_ref().unwrap_or(&x))?;
        join(backend, x, fed, norms)
    }

    fn attend(
        &self,
        backend: &B,
        x: &B::Tensor,
        rotations: &[Rotations],
        spans: &[Span],
        cache: Option<&mut B::KeyValues>,
    ) -> Result<B::Tensor> {
        let (q_width, kv_width) =
            (self.spec.heads * self.spec.head_dim, self.spec.kv_heads * self.spec.head_dim);
        let fused = backend.linear(x, &self.qkv)?;
        let [mut q, mut k, mut v] = backend.split(&fused, [q_width, kv_width, kv_width])?;
        if let Some([q_norm, k_norm]) = &self.qk_norms {
            (q, k) = (backend.norm(&q, q_norm)?, backend.norm(&k, k_norm)?);
        }
        if let Some(limit) = self.qkv_clip {
            let clip = |x| backend.activate(x, Activation::Clip(limit));
            (q, k, v) = (clip(q)?, clip(k)?, clip(v)?);
        }
        if let Some(rotary) = self.rotary {
            (q, k) = (backend.rope(q, &rotations[rotary])?, backend.rope(k, &rotations[rotary])?);
        }
        let mixed = backend.attention(&q, &k, &v, &self.spec, spans, cache)?;
        backend.linear(&mixed, &self.output)
    }
}

/// after(x + output_norm(y)).
fn join<B: Backend>(backend: &B, x: B::Tensor, y: B::Tensor, norms: &Norms<B>) -> Result<B::Tensor> {
    let y = normed(backend, y, norms.output.as_ref())?;
    normed(backend, backend.add(x, &y)?, norms.after.as_ref())
}

fn spec(config: &Config, index: usize) -> Attention {
    Attention {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: config.attention_scale / if config.scale_by_block { index as f32 + 1.0 } else { 1.0 },
        soft_cap: config.attention_cap,
        window: config.layers[index].window,
        slopes: config.slopes(),
        causal: config.causal,
    }
}
