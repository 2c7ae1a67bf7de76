//! Attention: queries meet the keys of all tokens before them. Grouped queries, windows, soft caps, norms and clipping of q
//! and k, rotations, ALiBi.

use crate::backend::{self, Activation, Backend, Rotations, Span};
use crate::error::{Error, Result};
use crate::model::layout::{InputPlace, Walk};
use crate::model::names::{TensorName, TensorRole};
use crate::model::settings::{SettingKeys, Settings};
use crate::model::weights::{Loader, Location};

/// Attention: names and settings. Of an architecture's outline, sizes are those of models whose config.json leaves them out:
/// 0 where they follow from others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// The linears that make q, k and v.
    pub input: Projections,
    /// The linear that reads the mixed values.
    pub output: &'static str,
    /// Norms of q and k.
    pub norms: Option<HeadNorms>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Cap of attention scores (Gemma 2).
    pub soft_cap: Option<f32>,
    /// Number of positions back that a token sees, its own included; `None` for all.
    pub window: Option<usize>,
    /// Limit of the elements of q, k and v (a setting of OLMoE).
    pub clip: Option<f32>,
    /// The number of the rotation of q and k among the model's; `None` where positions are told otherwise.
    pub rotary: Option<usize>,
    /// True if each head has a slope (ALiBi; Press et al., 2021, <https://arxiv.org/abs/2108.12409>).
    pub alibi: bool,
    /// True if tokens see only the tokens before them.
    pub causal: bool,
}

/// The linears that make q, k and v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One each.
    Separate([&'static str; 3]),
    /// One: all rows of q, all of k, all of v.
    Stacked(&'static str),
    /// One: q, k and v of the first head, of the second, and so on (GPT-NeoX, BLOOM).
    PerHead(&'static str),
}

/// Norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadNorms {
    /// That of q, and that of k; with `{e}` where each head has a weight of its own.
    pub names: [&'static str; 2],
    /// True if they run over all heads at once (OLMo 2), false if over each by itself.
    pub whole: bool,
}

impl Attention {
    /// Lists its tensors.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let mut tensors = match self.input {
            Projections::Separate([q, k, v]) => vec![
                TensorName::new(TensorRole::Query, q),
                TensorName::new(TensorRole::Key, k),
                TensorName::new(TensorRole::Value, v),
            ],
            Projections::Stacked(fused) | Projections::PerHead(fused) => {
                vec![TensorName::new(TensorRole::QueryKeyValue, fused)]
            }
        };
        if let Some(HeadNorms { names: [q, k], .. }) = self.norms {
            tensors
                .extend([TensorName::new(TensorRole::QueryNorm, q), TensorName::new(TensorRole::KeyNorm, k)]);
        }
        tensors.push(TensorName::new(TensorRole::AttentionOutput, self.output));
        tensors
    }

    /// Fills in the sizes.
    pub(super) fn read(self, settings: &Settings, keys: &SettingKeys, hidden: usize) -> Result<Attention> {
        let heads = settings.size(keys.heads)?;
        let default = if self.head_dim > 0 { self.head_dim } else { hidden / heads };
        let head_dim = settings.optional_size(keys.head_dim)?.unwrap_or(default);
        let kv_heads = settings.optional_size(keys.kv_heads)?.unwrap_or(heads);
        let scale = (head_dim as f32).powf(-0.5);
        Ok(Attention { heads, kv_heads, head_dim, scale, ..self })
    }

    /// Refuses numbers that do not belong together.
    pub(super) fn validate(&self) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads.max(1)) || self.kv_heads == 0 || self.head_dim == 0 {
            let found = format!("{} heads over {}", self.heads, self.kv_heads);
            let expected = "query heads that are a multiple of the key/value heads, of a positive size";
            let hint =
                "config.json is damaged or of another model: copy the one that belongs to these weights";
            return Err(Error::malformed_tensor("config.json", "num_key_value_heads", expected, found, hint));
        }
        Ok(())
    }

    /// Returns the columns of q.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns the columns of k, and of v.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Returns ALiBi's slopes, \[heads\]; `None` where positions are told otherwise.
    ///
    /// Source: `get_slopes` of the paper's code: 2^(−8i/n) for a power of two n; of other counts, those of the power of two
    /// below, then every other of the one above.
    pub(crate) fn slopes(&self) -> Option<Vec<f32>> {
        if !self.alibi {
            return None;
        }
        let below = 1 << self.heads.max(1).ilog2();
        let slope = |i: usize, n: usize| 2f64.powf(-8.0 * i as f64 / n as f64) as f32;
        let first = (1..=below).map(|i| slope(i, below));
        let rest = (0..self.heads - below).map(|i| slope(2 * i + 1, 2 * below));
        Some(first.chain(rest).collect())
    }

    fn spec(&self) -> backend::Attention {
        backend::Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            soft_cap: self.soft_cap,
            window: self.window,
            slopes: self.slopes(),
            causal: self.causal,
        }
    }

    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<AttentionWeights<B>> {
        Ok(AttentionWeights {
            norms: self.norms.map(|norms| self.load_norms(norms, loader, at)).transpose()?,
            input: self.load_input(loader, at)?,
            output: loader.linear(&[(self.output, loader.hidden)], self.q_width(), at)?,
            spec: self.spec(),
            rotary: self.rotary,
            clip: self.clip,
        })
    }

    /// Loads the layer that makes q, k and v, in this order for every order in the file.
    fn load_input<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<B::Linear> {
        let (q, kv, hidden, dim) = (self.q_width(), self.kv_width(), loader.hidden, self.head_dim);
        match self.input {
            Projections::Separate([q_name, k, v]) => {
                loader.linear(&[(q_name, q), (k, kv), (v, kv)], hidden, at)
            }
            Projections::Stacked(fused) => loader.linear(&[(fused, q + 2 * kv)], hidden, at),
            Projections::PerHead(fused) => {
                let start = |part| (0..self.heads).map(move |head| (3 * head + part) * dim);
                let order: Vec<_> = (0..3).flat_map(start).map(|start| start..start + dim).collect();
                loader.reordered(fused, [3 * q, hidden], &order, at)
            }
        }
    }

    fn load_norms<B: Backend>(
        &self,
        norms: HeadNorms,
        loader: &Loader<B>,
        at: Location,
    ) -> Result<[B::Norm; 2]> {
        let load = |pattern: &str, heads: usize| match norms.whole {
            _ if pattern.contains("{e}") => loader.norm_per_head(pattern, heads, self.head_dim, at),
            false => loader.norm_over(pattern, self.head_dim, at),
            true => loader.norm_over(pattern, heads * self.head_dim, at),
        };
        Ok([load(norms.names[0], self.heads)?, load(norms.names[1], self.kv_heads)?])
    }

    /// Adds its linears to a layout: q, k and v, then o. Returns the depth of what comes after it.
    pub(super) fn walk(&self, walk: &mut Walk, from: InputPlace, writes_residual: bool) -> Result<usize> {
        let v = match &self.input {
            Projections::Separate([q, k, v]) => {
                walk.linear(q, None, from, false)?;
                walk.linear(k, None, from, false)?;
                walk.linear(v, None, from, false)?
            }
            Projections::Stacked(fused) | Projections::PerHead(fused) => {
                walk.linear(fused, None, from, false)?
            }
        };
        let mut mixed = walk.input(from.depth + 1);
        // Clipping is the one function between v and o that a scale does not pass through.
        if self.clip.is_none() {
            mixed.fold = Some(walk.fold(v, self.value_rows(), Some(self.head_dim))?);
        }
        walk.linear(self.output, None, mixed, writes_residual)?;
        Ok(from.depth + 2)
    }

    /// Returns the row of the linear that makes v behind each column of o.
    fn value_rows(&self) -> Vec<u32> {
        let (dim, before) = (self.head_dim, self.q_width() + self.kv_width());
        let row = |head: usize, at: usize| match self.input {
            Projections::Separate(_) => head * dim + at,
            Projections::Stacked(_) => before + head * dim + at,
            Projections::PerHead(_) => (3 * head + 2) * dim + at,
        };
        let per_group = self.heads / self.kv_heads;
        (0..self.q_width()).map(|column| row(column / dim / per_group, column % dim) as u32).collect()
    }
}

/// Attention, loaded.
pub(in crate::model) struct AttentionWeights<B: Backend> {
    /// q, k and v in one.
    input: B::Linear,
    norms: Option<[B::Norm; 2]>,
    output: B::Linear,
    spec: backend::Attention,
    rotary: Option<usize>,
    clip: Option<f32>,
}

impl<B: Backend> AttentionWeights<B> {
    pub(super) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        rotations: &[Rotations],
        spans: &[Span],
        key_values: Option<&mut B::KeyValues>,
    ) -> Result<B::Tensor> {
        let kv_width = self.spec.kv_heads * self.spec.head_dim;
        let fused = backend.linear(x, &self.input)?;
        let widths = [self.spec.heads * self.spec.head_dim, kv_width, kv_width];
        let [mut q, mut k, mut v] = backend.split(&fused, widths)?;
        if let Some([q_norm, k_norm]) = &self.norms {
            (q, k) = (backend.norm(&q, q_norm)?, backend.norm(&k, k_norm)?);
        }
        if let Some(limit) = self.clip {
            let clip = |x| backend.activate(x, Activation::Clip(limit));
            (q, k, v) = (clip(q)?, clip(k)?, clip(v)?);
        }
        if let Some(rotary) = self.rotary {
            (q, k) = (backend.rope(q, &rotations[rotary])?, backend.rope(k, &rotations[rotary])?);
        }
        let mixed = backend.attention(&q, &k, &v, &self.spec, spans, key_values)?;
        backend.linear(&mixed, &self.output)
    }
}
